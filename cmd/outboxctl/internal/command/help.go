package command

import "github.com/spf13/cobra"

// helpTemplate shows what a command does, then examples, then the flags.
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

// helpTopics are the topics that `outboxctl help` explains besides the commands.
func helpTopics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "environment", Short: "The environment variables", Long: environmentTopic},
		{Use: "encryption", Short: "Messages that are encrypted at rest", Long: encryptionTopic},
		{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesTopic},
		{Use: "formatting", Short: "Tables, JSON, TSV, ids", Long: formattingTopic},
		{Use: "relay", Short: "The URL of a relay and its parameters", Long: relayTopic},
		{Use: "states", Short: "The states of a delivery", Long: statesTopic},
	}
}

const environmentTopic = `OUTBOX_DB              the database, unless --db is given
OUTBOX_SCHEMA          the PostgreSQL schema that holds the tables, unless --schema is given
OUTBOX_RELAY           the relay, unless --relay is given
OUTBOX_RELAY_PASSWORD  the relay's password, if the URL names a user and nothing else gives the password
OUTBOX_RELAY_CLIENT_SECRET, OUTBOX_RELAY_REFRESH_TOKEN, OUTBOX_RELAY_TOKEN_COMMAND
                       the secrets of a login by token, unless the URL gives them; see the topic relay
OUTBOX_KEYS            the keys of encrypted messages, unless --key-file is given; see the topic encryption
OUTBOX_FORCE_TTY       a number of columns: behave as on a terminal of that width
NO_COLOR               set to any value: no colour, unless --color says otherwise
CLICOLOR=0             no colour
CLICOLOR_FORCE         set to any value but 0: colour in a pipe, too
PGHOST, PGUSER, PGPASSWORD, PGSSLMODE and the like
                       the parts that a postgres:// URL leaves out`

const encryptionTopic = `To make a key:

  echo "2026-11:$(openssl rand -base64 32)"

An application with keys (outbox.Config.Keys) stores the bodies of its messages encrypted. To send or show them,
outboxctl needs the keys, too: in a file (--key-file) or in OUTBOX_KEYS. Write one key on each line as NAME:SECRET, the
current key first. The secret is 32 random bytes in base64. A # begins a comment.

To change keys while everything runs:

  1. Give the new key to every dispatcher and application, behind the current one.
  2. Put it first everywhere.
  3. Run "outboxctl rekey" until --dry-run finds none.
  4. Remove the older key.

A dispatcher that lacks the key of a message holds the delivery, and the reason names the key. Give the key to the
dispatcher and run "outboxctl release". If a key is lost for good, nobody can read the messages under it.`

const exitCodesTopic = `0    done, even if nothing matched
1    failed
2    the command line, or the message in it, is wrong; nothing was done
3    the database cannot be reached, or its tables have another version than this program
4    nothing matched, with --exit-status
5    partly done
130  interrupted`

const formattingTopic = `  outboxctl list --state failed                       a table on a terminal, tab-separated values in a pipe
  outboxctl list --state failed -o json               JSON
  outboxctl list --state failed --json id,reply       JSON with two fields
  outboxctl list -o id --state failed | outboxctl requeue -

On a terminal, tables have a header and relative times, and long columns are cut.
In a pipe, values are complete, separated by tabs, with RFC 3339 times; --header
names the columns.

A delivery is one recipient of a message: ID/SEQ. An ID alone means the message.
The last eight digits of an id are enough; so are the first ones, if no other
message has them, and the Message-ID.

-o table    aligned columns under a header
-o tsv      values between tabs
-o json     one JSON object with "schema_version"
-o ndjson   one JSON object on each line
-o id       ids (ID/SEQ), for another command to read
--json a,b  JSON with only these fields; --json without fields lists them all

docs/cli-json.md describes the JSON. New fields may come at any time.`

const relayTopic = `smtp://user@host:587      STARTTLS, required unless tls says otherwise
smtps://user@host:465     TLS from the first byte
smtp+unix:///run/smtp.sock  a Unix socket, in clear unless tls says otherwise

Without a port the provider's is taken, else 587 or 465. Parameters follow a "?" and are separated by "&". Special
characters are percent-encoded. An unknown parameter is an error.

Protection
  tls=MODE            required, starttls, implicit, opportunistic (TLS if it is offered) or none
  ca=FILE             PEM certificates of authorities to trust instead of the system's
  cert=FILE, key=FILE the client's own certificate
  clear-auth=true     allow AUTH without TLS

Login by password
  password-file=FILE, password-command=CMD, or OUTBOX_RELAY_PASSWORD
  auth=MECHANISM      plain, login, cram-md5, scram-sha-1, scram-sha-256, xoauth2, oauthbearer or external

Login by token (OAUTHBEARER, XOAUTH2)
  token-command=CMD   a shell command that prints a token, or OUTBOX_RELAY_TOKEN_COMMAND
  client-id=ID        the application at the identity provider
  client-secret=, client-secret-file=FILE, or OUTBOX_RELAY_CLIENT_SECRET
  refresh-token=, refresh-token-file=FILE, or OUTBOX_RELAY_REFRESH_TOKEN
  tenant=ID           the directory of Microsoft Entra
  service-account=FILE  the JSON key of a Google service account
  token-url=URL, scope=SCOPE  unless the provider's are known

Connections
  conns=N             connections at a time
  rate=N              messages a second, or with a unit: 600/m, 2000/h
  dials=N             new connections a second, or with a unit: 10/m
  messages=N, age=TIME, idle=TIME  limits of one connection
  ehlo=NAME           the name of this host
  local=IP            the local address
  proxy=URL           socks5://user:password@host:1080, http://host:3128 or https://host

Behaviour
  provider=NAME       the profile to use; docs/providers.md lists them
  without=A,B         ESMTP extensions not to use, such as chunking and pipelining`

const statesTopic = `Each recipient of a message has its own delivery. It is in one of these states:

queued      waits to be sent; shown as "scheduled" before its time and "deferred" after an attempt
sending     a dispatcher is sending it
uncertain   the connection was lost after the transfer: the relay may have accepted it
held        set aside until you release it
sent        the relay accepted it
failed      refused for good, or given up
expired     not sent before its deadline
cancelled   withdrawn by the application or an operator
suppressed  not sent: the recipient is on the suppression list`
