package connect

import (
	"cmp"
	"context"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/smtpx"
)

// The environment variables of the relay.
const (
	EnvRelay         = "OUTBOX_RELAY"
	EnvRelayPassword = "OUTBOX_RELAY_PASSWORD" //nolint:gosec // the name of a variable

	// EnvClientSecret, EnvRefreshToken and EnvTokenCommand are used only if the URL does not give them in another way.
	EnvClientSecret = "OUTBOX_RELAY_CLIENT_SECRET" //nolint:gosec // the name of a variable
	EnvRefreshToken = "OUTBOX_RELAY_REFRESH_TOKEN" //nolint:gosec // the name of a variable
	EnvTokenCommand = "OUTBOX_RELAY_TOKEN_COMMAND" //nolint:gosec // the name of a variable
)

const relayForms = "use smtp://user@host:587 or smtps://user@host:465, and OUTBOX_RELAY_PASSWORD for the password; " +
	"outboxctl help relay lists the parameters"

// RelayFlags holds the flags that name a relay and the source of its password.
type RelayFlags struct {
	url             string
	passwordFile    string
	passwordCommand string
}

// Add adds the flags to a command.
func (f *RelayFlags) Add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.url, "relay", "", "SMTP relay `URL` (env "+EnvRelay+")")
	cmd.Flags().StringVar(&f.passwordFile, "password-file", "", "`FILE` with the relay's password")
	cmd.Flags().StringVar(&f.passwordCommand, "password-command", "", "take the relay's password from the output of a shell `COMMAND`")
}

// Relay is the client of a relay with its name.
type Relay struct {
	// Name names the relay in the database and in logs. It is made of the host, or of the path of a socket.
	Name   string
	Client *smtpx.Client
}

// Open creates the client and does not connect it. If a password command is given, Open runs it and copies its standard
// error to stderr.
func (f *RelayFlags) Open(ctx context.Context, getenv func(string) string, stderr io.Writer) (*Relay, error) {
	raw := f.url
	if raw == "" {
		raw = getenv(EnvRelay)
	}
	if raw == "" {
		return nil, exit.Usagef("set OUTBOX_RELAY or give --relay: "+relayForms, "no relay was given")
	}
	secret := secret{file: f.passwordFile, command: f.passwordCommand}
	// smtpx.Open refuses a URL that cannot be parsed. Its error does not quote the URL.
	name := "relay"
	if u, err := url.Parse(raw); err == nil {
		name = relayName(cmp.Or(u.Hostname(), strings.Trim(u.Path, "/")))
		if raw, err = secret.takeFrom(u); err != nil {
			return nil, err
		}
	}
	fallback := getenv(EnvRelayPassword)
	if secret.token || secret.hasUser && getenv(EnvTokenCommand) != "" {
		fallback = ""
	}
	password, err := secret.read(ctx, fallback, stderr)
	if err != nil {
		return nil, err
	}
	var opts []smtpx.Option
	if password != "" {
		opts = append(opts, smtpx.Password(password))
	}
	opts = append(opts, tokenFrom(getenv))
	client, err := smtpx.Open(raw, opts...)
	if err != nil {
		return nil, &exit.Error{Err: err, Hint: relayForms, Code: exit.Usage}
	}
	return &Relay{Name: name, Client: client}, nil
}

// tokenFrom completes the source of tokens of a relay from the environment. The token command of the environment replaces
// OUTBOX_RELAY_PASSWORD, and no other password.
func tokenFrom(getenv func(string) string) smtpx.Option {
	return func(c *smtpx.Config) {
		o := &c.OAuth2
		switch {
		case c.TokenCommand != "" || o.ServiceAccountFile != "":
		case o.ClientID != "":
			if o.ClientSecret == "" && o.ClientSecretFile == "" {
				o.ClientSecret = getenv(EnvClientSecret)
			}
			if o.RefreshToken == "" && o.RefreshTokenFile == "" {
				o.RefreshToken = getenv(EnvRefreshToken)
			}
		case c.User != "" && c.Password == "":
			c.TokenCommand = getenv(EnvTokenCommand)
		}
	}
}

// relayName turns a host into a name of at most 63 bytes. It replaces each character that a name must not contain by '-'.
// The name of an empty host is "relay".
func relayName(host string) string {
	const longest = 63
	name := strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_') {
			return r
		}
		return '-'
	}, host)
	if name == "" {
		return "relay"
	}
	return name[:min(len(name), longest)]
}

// secret describes the source of a password.
type secret struct {
	file, command string
	hasUser       bool // the URL names a user
	inURL         bool // the URL holds a password
	token         bool // the URL tells where tokens come from
}

// takeFrom moves the parameters password-file and password-command from a relay's URL into s and returns the URL without
// them. smtpx does not know these parameters. A source that is given both as a flag and in the URL is an error.
func (s *secret) takeFrom(u *url.URL) (string, error) {
	if u.User != nil {
		s.hasUser = u.User.Username() != ""
		_, s.inURL = u.User.Password()
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return u.String(), nil //nolint:nilerr // smtpx refuses it
	}
	s.token = query.Has("token-command") || query.Has("client-id") || query.Has("service-account")
	var taken bool
	for name, to := range map[string]*string{"password-file": &s.file, "password-command": &s.command} {
		if !query.Has(name) {
			continue
		}
		if *to != "" {
			return "", exit.Usagef("", "%s is given twice, as a flag and in the relay URL", name)
		}
		*to, taken = query.Get(name), true
		query.Del(name)
	}
	if taken {
		u.RawQuery = query.Encode()
	}
	return u.String(), nil
}

// read returns the password. It returns an empty string if the URL holds the password or no source is given. Two sources
// are an error. The environment is used only if the URL names a user and no other source is given.
func (s *secret) read(ctx context.Context, env string, stderr io.Writer) (string, error) {
	switch {
	case s.file != "" && s.command != "":
		return "", exit.Usagef("", "the relay's password has two sources: a file and a command")
	case s.inURL && (s.file != "" || s.command != ""):
		return "", exit.Usagef("", "the relay's password has two sources: the URL and a file or command")
	case s.file != "":
		return readSecretFile(s.file)
	case s.command != "":
		return runSecretCommand(ctx, s.command, stderr)
	case s.hasUser && !s.inURL:
		return env, nil
	default:
		return "", nil
	}
}
