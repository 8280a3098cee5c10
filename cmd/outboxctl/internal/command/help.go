package command

import "github.com/spf13/cobra"

// helpTemplate shows what a command does, then how it is used, examples first.
const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}
{{end}}{{if or .Runnable .HasSubCommands}}
{{.UsageString}}{{end}}`

const usageTemplate = `{{if .HasExample}}Examples:
{{.Example}}

{{end}}Usage:{{if .Runnable}}
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND{{end}}
{{if .HasAvailableSubCommands}}{{$all := .}}{{range $group := .Groups}}
{{.Title}}:{{range $all.Commands}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding }} {{.Short}}{{end}}{{end}}
{{end}}{{if not .Groups}}
Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding }} {{.Short}}{{end}}{{end}}
{{end}}{{end}}{{if .HasAvailableLocalFlags}}
Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableInheritedFlags}}
Flags of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .HasHelpSubCommands}}
Topics:{{range .Commands}}{{if .IsAdditionalHelpTopicCommand}}
  {{rpad .Name .NamePadding }} {{.Short}}{{end}}{{end}}
{{end}}`

// helpTopics are what `outboxctl help` explains besides the commands.
func helpTopics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "environment", Short: "The environment variables", Long: environmentTopic},
		{Use: "encryption", Short: "Messages that are encrypted at rest", Long: encryptionTopic},
		{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesTopic},
		{Use: "formatting", Short: "Tables, JSON, TSV, ids", Long: formattingTopic},
		{Use: "states", Short: "Where a delivery may stand", Long: statesTopic},
	}
}

const environmentTopic = `OUTBOX_DB              the database, where --db is not given
OUTBOX_SCHEMA          the schema of PostgreSQL that holds the tables, where --schema is not given
OUTBOX_RELAY           the relay, where --relay is not given
OUTBOX_RELAY_PASSWORD  the relay's password, where the URL names a user and nothing else gives one
OUTBOX_KEYS            the keys of encrypted messages, where --key-file is not given; see the topic encryption
OUTBOX_FORCE_TTY       a number of columns: behave as on a terminal of that width
NO_COLOR               set to anything: no colour, unless --color says otherwise
CLICOLOR, CLICOLOR_FORCE
                       0: no colour; force set to anything else: colour also where no terminal is
PGHOST, PGUSER, PGPASSWORD, PGSSLMODE and the like
                       what a postgres:// URL leaves out`

const encryptionTopic = `An application that has keys (outbox.Config.Keys) stores the bodies of its messages encrypted. What sends
them or shows them needs the keys: in a file (--key-file), or in OUTBOX_KEYS. One key stands on each line as
NAME:SECRET, the secret 32 random bytes in base64, the current key first; what follows a # is left out. To make one:

  echo "2026-11:$(openssl rand -base64 32)"

To change keys without a stop: give the new key to everybody, behind the current one; put it first everywhere; run
"outboxctl rekey" until --dry-run finds none; take the older key away.

A delivery that a dispatcher cannot open, because its key is missing or another, is held and says so. Give the
dispatcher the key and run "outboxctl release": it is sent then. Nothing is lost but what the lost key alone could
open.`

const exitCodesTopic = `0    done, also where nothing matched
1    failed
2    the command line or the message that it describes is wrong; nothing was done
3    the database cannot be reached, or has another schema than this program
4    nothing matched, with --exit-status
5    done in part
130  interrupted`

const formattingTopic = `A terminal gets tables with a header, relative times and columns cut to the width of the screen.
A pipe gets values between tabs, complete, with times in RFC 3339 and no header.

-o table    aligned columns under a header
-o tsv      values between tabs
-o json     one JSON object with "schema_version"
-o ndjson   one JSON object on each line
-o id       message ids, for another command to read: outboxctl list -o id … | outboxctl requeue -
--json a,b  JSON with these fields alone; an empty list of fields names them all

The JSON is described in docs/cli-json.md. Fields may be added at any time.`

const statesTopic = `Each recipient of a message has a delivery of its own, which is in one of these states:

queued      waits to be sent; reads "scheduled" before its time and "deferred" after an attempt
sending     a dispatcher holds it
uncertain   the connection was lost after the message had been transferred: the relay may have accepted it
held        set aside until somebody releases it
sent        the relay accepted it
failed      refused for good, or given up
expired     not sent before its deadline
cancelled   withdrawn by the application or an operator
suppressed  its recipient is on the suppression list`
