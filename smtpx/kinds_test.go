package smtpx_test

import (
	"testing"

	"github.com/outboxmail/outbox/smtpx"
)

// kind is one kind of mistake that a classifier by words and codes makes. The words are made up: each kind must be understood, not
// the sentence.
type kind struct {
	name    string
	replies []example
}

type example struct {
	provider string
	stage    smtpx.Stage
	code     int
	text     string
	want     smtpx.Class
}

var kinds = []kind{
	{"a temporary code for a permanent fault", []example{
		{"generic", "auth", 454, "4.7.8 wrong user or password", "config"},
		{"generic", "auth", 434, "4.7.9 mechanism too weak", "config"},
		{"generic", "auth", 451, "4.7.8 Error: login was not accepted, bad credentials", "config"},
		{"generic", "auth", 454, "4.7.0 The password is incorrect", "config"},
		{"generic", "auth", 450, "unknown API key", "config"},
		{"generic", "auth", 421, "4.7.0 access token expired", "config"},
		{"generic", "auth", 454, "4.7.0 Temporary failure, cannot check your password now", "transient"},
		{"generic", "auth", 451, "4.3.0 password database is unavailable", "transient"},
		{"generic", "mail", 450, "4.7.1 domain is not verified in this account", "config"},
		{"generic", "dot", 450, "The sender's domain must be verified first", "config"},
	}},
	{"a code of HTTP", []example{
		{"generic", "dot", 401, "Unauthorized: unknown sender key", "config"},
		{"generic", "dot", 429, "Slow your requests", "throttled"},
		{"generic", "dot", 413, "Payload larger than allowed", "message"},
		{"generic", "mail", 429, "", "throttled"},
		{"generic", "auth", 401, "", "config"},
		{"generic", "dot", 403, "Forbidden", "config"},
		{"generic", "dot", 402, "", "quota"},
		{"generic", "dot", 413, "Entity too large", "message"},
	}},
	{"a rate or an allowance beside a code of the recipient", []example{
		{"generic", "rcpt", 550, "5.1.1 your host passed its hourly cap of addressees", "throttled"},
		{"generic", "rcpt", 550, "5.1.1 too many recipients from you in the last hour", "throttled"},
		{"generic", "rcpt", 550, "5.1.0 daily limit of recipients reached", "quota"},
		{"generic", "rcpt", 550, "5.2.1 you exceeded 100 recipients per day", "quota"},
		{"generic", "rcpt", 550, "5.1.1 more than 30 addresses a minute, limit exceeded", "throttled"},
	}},
	{"an address in the middle of a phrase", []example{
		{"generic", "dot", 550, "Account bob@example.com has exceeded the 1-hour sending cap", "throttled"},
		{"generic", "dot", 554, "the user bob@example.com has exceeded what may leave per day", "quota"},
		{"generic", "mail", 550, "sender bob@example.com has reached the limit of messages per month", "quota"},
		{"generic", "dot", 554, "mailbox bob@example.com used up its outgoing quota for today", "quota"},
		{"generic", "mail", 451, "user bob@example.com sends more than allowed per hour, limit exceeded", "throttled"},
		{"generic", "rcpt", 550, "5.1.1 user <bob@example.com> unknown", "recipient"},
	}},
	{"words for an allowance", []example{
		{"generic", "dot", 550, "hour limit was hit", "throttled"},
		{"generic", "dot", 550, "emails quota used up, please top up", "quota"},
		{"generic", "rcpt", 452, "4.2.2 plan quota exceeded for this billing period", "quota"},
		{"generic", "dot", 550, "balance too low, recharge to go on", "quota"},
		{"generic", "mail", 550, "5.7.1 The 24-hour cap on outbound mails has been reached", "quota"},
		{"generic", "dot", 554, "your subscription's allotment is exhausted", "quota"},
		{"generic", "dot", 550, "12-hour sending threshold exceeded", "throttled"},
		{"generic", "auth", 535, "5.7.1 monthly allowance consumed", "quota"},
		{"generic", "rcpt", 552, "5.2.2 the mailbox quota of this user is exceeded", "recipient"},
		{"generic", "dot", 552, "message size exceeds the quota of 20 MB", "message"},
	}},
	{"an IP address that the reply is not about", []example{
		{"gmail", "dot", 550, "5.7.1 [192.0.2.7      11] Subject is repeated, message not accepted", "message"},
		{"gmail", "dot", 550, "5.7.1 [192.0.2.7      19] The To header has two addresses too many colons, not accepted", "message"},
		{"generic", "dot", 554, "5.6.0 [192.0.2.7] rejected: the Date: field is malformed", "message"},
		{"gmail", "dot", 550, "5.7.1 [2001:db8::7      12] This mail has no valid Message-ID, and is rejected", "message"},
		{"generic", "rcpt", 550, "192.0.2.7 rejected: unknown user", "recipient"},
		{"generic", "banner", 554, "192.0.2.7 is refused here", "config"},
		{"generic", "dot", 550, "mail from 192.0.2.7 is refused here", "config"},
	}},
	{"a header field whose name speaks of something else", []example{
		{"ses", "dot", 554, "Transaction failed: Duplicate header 'DKIM-Signature'.", "message"},
		{"generic", "dot", 550, "5.6.0 repeated header: Authentication-Results", "message"},
		{"generic", "dot", 554, "the header X-Spam-Status stands there twice", "message"},
	}},
	{"whose account", []example{
		{"generic", "dot", 554, "No delivery to bob@example.com: account is disabled", "recipient"},
		{"generic", "dot", 550, "mail to this person cannot be delivered, the account was closed", "recipient"},
		{"generic", "dot", 554, "the recipient's account has been suspended", "recipient"},
		{"generic", "dot", 550, "your account has been suspended", "config"},
		{"generic", "dot", 554, "account blocked from sending, contact support", "config"},
		{"generic", "rcpt", 550, "account closed", "recipient"},
	}},
	{"a code alone", []example{
		{"generic", "rcpt", 525, "5.7.13 no delivery to this user, its administrator closed it", "recipient"},
		{"generic", "rcpt", 550, "5.7.13 the addressee's account is disabled", "recipient"},
		{"generic", "rcpt", 535, "mail for this user is not taken any more", "recipient"},
		{"generic", "dot", 534, "delivery to the recipient was refused by its owner", "recipient"},
		{"generic", "auth", 525, "5.7.13 disabled", "config"},
		{"generic", "mail", 530, "5.7.0 who are you?", "config"},
		{"generic", "rcpt", 530, "5.7.0 please log in", "config"},
	}},
	{"a refusal of RCPT that is not the recipient's", []example{
		{"generic", "rcpt", 550, "5.7.1 rejected, looks like spam", "message"},
		{"generic", "rcpt", 554, "no mail from this network, it is not on our list", "config"},
		{"generic", "rcpt", 550, "Could not send now. Try again later.", "transient"},
		{"generic", "rcpt", 550, "5.7.1 unsolicited bulk mail is not welcome", "message"},
		{"generic", "rcpt", 554, "your server is not allowed to connect here", "config"},
		{"generic", "rcpt", 550, "this host is refused", "config"},
		{"generic", "rcpt", 554, "internal error, please retry", "transient"},
		{"generic", "rcpt", 550, "temporarily unavailable", "transient"},
		{"generic", "rcpt", 550, "nobody of that name lives here", "recipient"},
		{"generic", "rcpt", 550, "5.7.0 our policy forbids it", "message"},
		{"generic", "rcpt", 554, "no", "message"},
	}},
	{"the test mode of a provider", []example{
		{"generic", "dot", 550, "Test mode: only your own address may be written to. Verify a domain first", "config"},
		{"generic", "dot", 550, "You can only send testing emails to your own email address", "config"},
		{"generic", "rcpt", 554, "sandbox accounts may write to authorized recipients alone", "config"},
		{"generic", "dot", 450, "trial account: add and verify a domain", "config"},
	}},
	{"a name that an API ran together", []example{
		{"generic", "dot", 554, `{"Code":"FailedOperation.SenderNotVerified"}`, "config"},
		{"generic", "dot", 554, "InvalidParameter.DailyQuotaExceeded", "quota"},
		{"generic", "dot", 550, "error=TooManyRequests", "throttled"},
		{"generic", "rcpt", 550, "RecipientNotFound", "recipient"},
		{"tencent", "dot", 554, "FailedOperation.ExceedSendLimit", "quota"},
		{"tencent", "dot", 554, "FailedOperation.FrequencyLimit", "throttled"},
		{"tencent", "dot", 554, "FailedOperation.NotAuthenticatedSender", "config"},
		{"tencent", "dot", 554, "FailedOperation.EmailAddrInBlacklist", "recipient"},
	}},
	{"a rule of a profile that is too wide", []example{
		{"mailgun", "mail", 421, "The hourly limit is used up, nobody is allowed to send before Mon, 01 Jan 2035 10:00:00 UTC; your domain is not allowed to send", "throttled"},
		{"mailgun", "dot", 421, "Domain mg.example.com is not allowed to send: daily limit exceeded", "quota"},
		{"mailgun", "dot", 554, "domains are limited to 100 messages / hour until Mon, 01 Jan 2035 10:00:00 UTC", "throttled"},
		{"mailgun", "dot", 550, "Domain mg.example.com is not allowed to send: DNS is not set up", "config"},
	}},
	{"too much at STARTTLS", []example{
		{"generic", "starttls", 454, "4.7.0 handshakes come in too great a number, wait", "throttled"},
		{"generic", "starttls", 421, "4.7.0 Error: too many new TLS sessions from 192.0.2.7", "throttled"},
		{"generic", "starttls", 450, "4.7.0 TLS session rate limit", "throttled"},
		{"generic", "starttls", 454, "4.7.0 slow down", "throttled"},
		{"generic", "starttls", 454, "4.7.0 TLS not available due to temporary reason", "unreachable"},
	}},
	{"an enhanced code against the words", []example{
		{"outlook", "dot", 550, "5.3.4 the mailbox must be confirmed in a browser before it can send", "config"},
		{"outlook", "dot", 550, "5.3.4 please sign in to your account to go on", "config"},
		{"generic", "dot", 550, "5.3.4 verify your account first", "config"},
		{"generic", "rcpt", 550, "5.7.1 mailbox does not exist", "recipient"},
		{"generic", "dot", 552, "5.3.4 message is larger than 10 MB", "message"},
		{"generic", "mail", 552, "5.3.4", "message"},
	}},
	{"a 503 that repeats what RCPT was told", []example{
		{"generic", "data", 503, "no RCPT was taken, last answer was: user unknown", "recipient"},
		{"generic", "data", 503, "5.5.1 all recipients were refused before", "recipient"},
		{"generic", "data", 554, "5.5.1 no valid recipients", "recipient"},
		{"generic", "data", 503, "valid recipient needed: mailbox unavailable", "recipient"},
		{"generic", "data", 503, "5.5.1 RCPT first", "recycle"},
		{"generic", "dot", 503, "no recipients specified", "recipient"},
	}},
	{"the order within a profile", []example{
		{"yahoo", "mail", 421, "4.7.1 [TS03] All messages from 192.0.2.7 will be permanently deferred; Retrying will NOT succeed.", "config"},
		{"yahoo", "banner", 553, "5.7.1 [TSS09] All messages from 192.0.2.7 will be permanently deferred", "config"},
		{"yahoo", "mail", 421, "4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred", "throttled"},
		{"163", "mail", 550, "MI:STC 163 smtp3", "quota"},
		{"163", "rcpt", 550, "RP:TRC 163 smtp3", "quota"},
		{"163", "mail", 450, "WM:BLI 163 smtp3", "config"},
		{"163", "mail", 554, "HL:IPB 163 smtp3", "config"},
		{"163", "banner", 421, "HL:MEP 163 smtp3", "throttled"},
	}},
	{"a dialogue that went wrong", []example{
		{"generic", "mail", 555, "5.5.4 MAIL FROM parameters not recognized or not implemented", "config"},
		{"generic", "rcpt", 502, "5.5.2 Error: command not recognized", "config"},
		{"generic", "rcpt", 501, "5.5.4 Unsupported option", "config"},
		{"generic", "rcpt", 500, "what?", "config"},
		{"generic", "data", 502, "", "config"},
		{"generic", "dot", 500, "5.5.1 unknown command", "config"},
		{"generic", "mail", 504, "", "config"},
		{"generic", "mail", 550, "5.5.2 syntax", "config"},
		{"generic", "rcpt", 503, "5.5.1 MAIL first", "recycle"},
		{"generic", "dot", 503, "", "recycle"},
	}},
}

func TestKinds(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			for _, e := range k.replies {
				profile, ok := smtpx.LookupProfile(e.provider)
				if !ok {
					t.Fatalf("no profile %q", e.provider)
				}
				if class, rule := profile.Classify(e.stage, smtpx.NewReply(e.code, e.text)); class != e.want {
					t.Errorf("%s %s: %d %s\n\tis %s by %s, want %s", e.provider, e.stage, e.code, e.text, class, rule, e.want)
				}
			}
		})
	}
}
