package smtptest

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Personality makes a server behave like a provider's, as far as documentation and published transcripts show it. It covers the
// EHLO offers, the names and senders that the provider accepts, the words of its replies, and its habits. Fields set in [Config]
// take precedence.
type Personality string

// The personalities.
const (
	// StrictFQDN is Postfix with reject_non_fqdn_helo_hostname: it answers any EHLO, but refuses RCPT if the name was not fully
	// qualified.
	StrictFQDN Personality = "strict-fqdn"
	// GmailRelay is smtp-relay.gmail.com: 421 and the end of the session for an EHLO name that is not fully qualified.
	GmailRelay Personality = "gmail-relay"
	// SES is Amazon SES: no PIPELINING, idle sessions end after 10 s, and the 250 holds only the id.
	SES Personality = "ses"
	// SendGrid takes the user "apikey" only.
	SendGrid Personality = "sendgrid"
	// Mailgun answers "Great success", without an id.
	Mailgun Personality = "mailgun"
	// Postmark offers CRAM-MD5.
	Postmark Personality = "postmark"
	// M365 is Microsoft 365: LOGIN and XOAUTH2, 432 for a message on a fourth connection, binary data in reply to QUIT.
	M365 Personality = "m365"
	// QQ wants MAIL FROM to be the login, and closes the connection behind every message.
	QQ Personality = "qq"
	// NetEase163 wants MAIL FROM to be the login, and takes ten messages on a connection.
	NetEase163 Personality = "163"
)

// character holds the parts of a personality.
type character struct {
	banner       string
	extensions   []string
	mechanisms   []string
	idle         time.Duration
	idleReply    string
	authFailed   string
	authRequired string
	accepted     func(id string) string
	hook         func(e Event, open int) Action
}

var characters = map[Personality]character{
	"": {
		authFailed:   "535 5.7.8 authentication credentials invalid",
		authRequired: "530 5.7.0 authentication required",
	},
	StrictFQDN: {
		banner:       "ESMTP Postfix",
		extensions:   []string{"PIPELINING", "SIZE 10240000", "ETRN", "ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8", "CHUNKING"},
		authFailed:   "535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6",
		authRequired: "530 5.7.0 Authentication required",
		hook: func(e Event, _ int) Action {
			if e.Stage == StageRcpt && notQualified(e.Session.EHLO) != "" {
				return Action{Reply: "504 5.5.2 <" + e.Session.EHLO + ">: Helo command rejected: need fully-qualified hostname"}
			}
			return Action{}
		},
	},
	GmailRelay: {
		banner:       "ESMTP d2e1a72fcca58-7b9a - gsmtp",
		extensions:   []string{"SIZE 35882577", "8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING", "CHUNKING", "SMTPUTF8"},
		mechanisms:   []string{"LOGIN", "PLAIN", "XOAUTH2", "OAUTHBEARER"},
		authFailed:   "535-5.7.8 Username and Password not accepted. For more information, go to\n535 5.7.8 https://support.google.com/mail/?p=BadCredentials d2e1a72fcca58-7b9a - gsmtp",
		authRequired: "530-5.7.0 Authentication Required. For more information, go to\n530 5.7.0 https://support.google.com/accounts/troubleshooter/2402620. d2e1a72fcca58-7b9a - gsmtp",
		accepted:     func(id string) string { return "250 2.0.0 OK  1700000000 " + id + "-7b9a - gsmtp" },
		hook: func(e Event, _ int) Action {
			name := ehloArgument(e.Line)
			if e.Stage == StageEHLO && (notQualified(name) != "" || strings.HasPrefix(name, "[")) {
				return Action{Reply: "421 4.7.0 Try again later, closing connection. (EHLO) d2e1a72fcca58-7b9a - gsmtp", End: Close}
			}
			return Action{}
		},
	},
	SES: {
		banner:       "ESMTP SimpleEmailService-d-ABCDEFGHI abcdefghijklmnopqrst",
		extensions:   []string{"8BITMIME", "SIZE 41943040"},
		mechanisms:   []string{"PLAIN", "LOGIN"},
		idle:         10 * time.Second,
		idleReply:    "451 4.4.2 Timeout waiting for data from client.",
		authFailed:   "535 Authentication Credentials Invalid",
		authRequired: "530 Authentication required",
		accepted: func(id string) string {
			return "250 Ok 01010160" + strings.ToLower(id) + "-21e57d9a-0000-4000-8000-000000"
		},
	},
	SendGrid: {
		banner:       "SG ESMTP service ready at geopod-ismtpd-0",
		extensions:   []string{"8BITMIME", "PIPELINING", "SIZE 31457280"},
		mechanisms:   []string{"PLAIN", "LOGIN"},
		authFailed:   "535 Authentication failed: The provided authorization grant is invalid, expired, or revoked",
		authRequired: "550 Unauthenticated senders not allowed",
		accepted:     func(id string) string { return "250 Ok: queued as " + id },
	},
	Mailgun: {
		banner:       "Mailgun Influx ready",
		extensions:   []string{"SIZE 52428800", "8BITMIME", "SMTPUTF8", "PIPELINING"},
		mechanisms:   []string{"PLAIN", "LOGIN"},
		authFailed:   "535 Authentication failed",
		authRequired: "550 5.7.1 Relaying denied",
		accepted:     func(string) string { return "250 Great success" },
	},
	Postmark: {
		banner:       "ESMTP Postmark",
		extensions:   []string{"SIZE 10485760", "8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING"},
		mechanisms:   []string{"CRAM-MD5", "PLAIN", "LOGIN"},
		authFailed:   "535 5.7.8 Error: authentication failed",
		authRequired: "530 5.7.0 Authentication required",
		accepted:     func(string) string { return "250 2.0.0 OK" },
	},
	M365: {
		banner: "Microsoft ESMTP MAIL Service ready",
		extensions: []string{
			"SIZE 157286400", "PIPELINING", "DSN", "ENHANCEDSTATUSCODES", "8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8",
		},
		mechanisms:   []string{"LOGIN", "XOAUTH2"},
		authFailed:   "535 5.7.3 Authentication unsuccessful [AM0PR10CA0001.EURPRD10.PROD.OUTLOOK.COM]",
		authRequired: "530 5.7.57 Client not authenticated to send mail. [AM0PR10CA0001.EURPRD10.PROD.OUTLOOK.COM]",
		accepted: func(id string) string {
			return "250 2.0.0 OK <" + id + "@AM0PR10MB0001.EURPRD10.PROD.OUTLOOK.COM> [Hostname=AM0PR10MB0001.EURPRD10.PROD.OUTLOOK.COM]"
		},
		hook: func(e Event, open int) Action {
			switch {
			case e.Stage == StageDot && open > 3:
				return Action{Reply: "432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending for more information."}
			case e.Stage == StageQuit:
				return Action{Raw: "\x00\xfe\x01\x80binary\r\n", End: Close}
			}
			return Action{}
		},
	},
	QQ: {
		banner:       "smtp.qq.com Esmtp QQ QMail Server",
		extensions:   []string{"PIPELINING", "SIZE 73400320", "MAILCOMPRESS", "8BITMIME"},
		mechanisms:   []string{"LOGIN", "PLAIN", "XOAUTH", "XOAUTH2"},
		authFailed:   "535 Login Fail. Please enter your authorization code to login.",
		authRequired: "503 Error: need EHLO and AUTH first !",
		accepted:     func(string) string { return "250 OK: queued as." },
		hook: func(e Event, _ int) Action {
			switch {
			case e.Stage == StageMail && !sentBy(e.Line, e.Session.User):
				return Action{Reply: "501 mail from address must be same as authorization user"}
			case e.Stage == StageIdle:
				return Action{End: Close}
			}
			return Action{}
		},
	},
	NetEase163: {
		banner:       "163.com Anti-spam GT for Coremail System (163com[20141201])",
		extensions:   []string{"PIPELINING", "8BITMIME", "SIZE 73400320"},
		mechanisms:   []string{"LOGIN", "PLAIN", "XOAUTH2"},
		authFailed:   "535 Error: authentication failed",
		authRequired: "553 authentication is required, 163 smtp1",
		accepted:     func(id string) string { return "250 Mail OK queued as smtp1," + id + " 1700000000" },
		hook: func(e Event, _ int) Action {
			switch {
			case e.Stage != StageMail:
				return Action{}
			case !sentBy(e.Line, e.Session.User):
				return Action{Reply: "553 Mail from must equal authorized user"}
			case e.Session.Messages >= 10:
				return Action{Reply: "450 MI:DMC 163 smtp1, too many messages on this connection", End: Close}
			}
			return Action{}
		},
	},
}

// adopt completes the configuration with the personality's.
func (c *Config) adopt() (character, error) {
	ch, ok := characters[c.Personality]
	if !ok {
		return ch, fmt.Errorf("unknown personality %q", c.Personality)
	}
	if c.Extensions == nil {
		c.Extensions = ch.extensions
	}
	if c.Mechanisms == nil {
		c.Mechanisms = ch.mechanisms
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = ch.idle
	}
	if ch.banner == "" {
		ch.banner = "ESMTP smtptest"
	}
	return ch, nil
}

// ask calls the hook of the configuration, and then the hook of the personality.
func (s *session) ask(ctx context.Context, stage Stage, line string, m *Message) Action {
	e := Event{Stage: stage, Session: s.info, Line: line, Message: m}
	if s.config.Hook != nil {
		if a := s.config.Hook(ctx, e); a != (Action{}) {
			return a
		}
	}
	if h := s.server.character.hook; h != nil {
		return h(e, int(s.server.stats.open.Load()))
	}
	return Action{}
}

func ehloArgument(line string) string {
	_, name, _ := strings.Cut(line, " ")
	return strings.TrimSpace(name)
}

// sentBy tells whether a MAIL command names the user as the sender. Without a login nothing is compared.
func sentBy(line, user string) bool {
	_, args, _ := strings.Cut(line, " ")
	path, _, ok := parsePath(args, "FROM:")
	return !ok || user == "" || strings.EqualFold(path, user)
}
