package smtpx_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
)

func TestDetectProfile(t *testing.T) {
	for host, want := range map[string]string{
		"email-smtp.eu-west-1.amazonaws.com":  "ses",
		"EMAIL-SMTP.us-east-1.amazonaws.com.": "ses",
		"smtp.sendgrid.net":                   "sendgrid",
		"smtp.eu.mailgun.org":                 "mailgun",
		"smtp.postmarkapp.com":                "postmark",
		"smtp.sparkpostmail.com":              "sparkpost",
		"in-v3.mailjet.com":                   "mailjet",
		"smtp-relay.brevo.com":                "brevo",
		"smtp.resend.com":                     "resend",
		"smtp.gmail.com":                      "gmail",
		"smtp-relay.gmail.com":                "gmail-relay",
		"smtp.office365.com":                  "m365",
		"smtp-mail.outlook.com":               "outlook",
		"smtp.mail.yahoo.com":                 "yahoo",
		"smtp.mail.me.com":                    "icloud",
		"smtp.zoho.eu":                        "zoho",
		"smtppro.zoho.com.au":                 "zoho",
		"smtp.zeptomail.com":                  "zeptomail",
		"smtp.fastmail.com":                   "fastmail",
		"smtp.mandrillapp.com":                "mandrill",
		"smtp.exmail.qq.com":                  "qq",
		"smtp.126.com":                        "163",
		"smtpdm.aliyun.com":                   "aliyun",
		"gz-smtp.qcloudmail.com":              "tencent",
		"live.smtp.mailtrap.io":               "mailtrap",
		"relay.example.com":                   "generic",
		"smtp.gmail.com.evil.example":         "generic",
		"email-smtp.a.b.amazonaws.com":        "generic",
		"127.0.0.1":                           "generic",
		"":                                    "generic",
	} {
		if got := smtpx.DetectProfile(host).Name; got != want {
			t.Errorf("%q is %s, want %s", host, got, want)
		}
	}
}

// A port or a mode that is left open comes from the profile of the provider.
func TestEndpoint(t *testing.T) {
	for _, tc := range []struct {
		provider string
		port     int
		mode     smtpx.TLSMode
		wantPort int
		want     smtpx.TLSMode
	}{
		{"ses", 0, "", 587, smtpx.TLSStartTLS},
		{"ses", 2465, "", 2465, smtpx.TLSImplicit},
		{"ses", 2587, smtpx.TLSRequired, 2587, smtpx.TLSStartTLS},
		{"ses", 0, smtpx.TLSImplicit, 465, smtpx.TLSImplicit},
		{"ses", 465, smtpx.TLSStartTLS, 465, smtpx.TLSStartTLS}, // given by the caller
		{"resend", 2465, "", 2465, smtpx.TLSImplicit},
		{"163", 0, "", 465, smtpx.TLSImplicit},
		{"163", 0, smtpx.TLSStartTLS, 587, smtpx.TLSStartTLS}, // it has none
		{"mailpit", 0, "", 1025, smtpx.TLSStartTLS},           // clear text must be asked for
		{"mailpit", 0, smtpx.TLSRequired, 1025, smtpx.TLSStartTLS},
		{"mailpit", 0, smtpx.TLSImplicit, 465, smtpx.TLSImplicit},
		{"mailpit", 0, smtpx.TLSNone, 1025, smtpx.TLSNone},
		{"sendgrid", 0, smtpx.TLSOpportunistic, 587, smtpx.TLSOpportunistic},
		{"generic", 0, "", 587, smtpx.TLSStartTLS},
		{"generic", 465, "", 465, smtpx.TLSImplicit},
		{"generic", 25, "", 25, smtpx.TLSStartTLS},
		{"generic", 0, smtpx.TLSImplicit, 465, smtpx.TLSImplicit},
		{"generic", 0, smtpx.TLSNone, 587, smtpx.TLSNone},
		{"generic", 2525, smtpx.TLSNone, 2525, smtpx.TLSNone},
	} {
		p, ok := smtpx.LookupProfile(tc.provider)
		if !ok {
			t.Fatalf("no profile %q", tc.provider)
		}
		if port, mode := p.Endpoint(tc.port, tc.mode); port != tc.wantPort || mode != tc.want {
			t.Errorf("%s: port %d and mode %q become %d %s, want %d %s", tc.provider, tc.port, tc.mode, port, mode, tc.wantPort, tc.want)
		}
	}
	if port, mode := (*smtpx.Profile)(nil).Endpoint(0, ""); port != 587 || mode != smtpx.TLSStartTLS {
		t.Errorf("without a profile: %d %s", port, mode)
	}
}

func TestLookupProfileKnowsAliases(t *testing.T) {
	for alias, want := range map[string]string{"Office365": "m365", "aws": "ses", "126": "163", "workspace": "gmail-relay", "SES": "ses"} {
		if p, ok := smtpx.LookupProfile(alias); !ok || p.Name != want {
			t.Errorf("%s is %v, want %s", alias, p, want)
		}
	}
	if _, ok := smtpx.LookupProfile("acme"); ok {
		t.Error("there is a profile acme")
	}
}

// Every fact of every profile has a source and a mark, and every rule can match.
func TestProfilesAreComplete(t *testing.T) {
	marks := []smtpx.Mark{smtpx.MarkDocumented, smtpx.MarkObserved, smtpx.MarkCode, smtpx.MarkReported, smtpx.MarkUncertain}
	classes := []smtpx.Class{smtpx.ClassTransient, smtpx.ClassRecycle, smtpx.ClassThrottled, smtpx.ClassQuota, smtpx.ClassRecipient,
		smtpx.ClassMessage, smtpx.ClassConfig, smtpx.ClassUnreachable}
	stages := []smtpx.Stage{smtpx.StageDial, smtpx.StageTLS, smtpx.StageBanner, smtpx.StageEHLO, smtpx.StageStartTLS, smtpx.StageAuth,
		smtpx.StageMail, smtpx.StageRcpt, smtpx.StageData, smtpx.StageDot, smtpx.StageIdle}
	code, enhanced := regexp.MustCompile(`^[45x][0-9x][0-9x]$`), regexp.MustCompile(`^[45x]\.([0-9x]{1,3})\.([0-9x]{1,3})$`)
	effects := []smtpx.Effect{"", smtpx.EffectSessionCap, smtpx.EffectConnectionCap, smtpx.EffectIdleLimit, smtpx.EffectRate,
		smtpx.EffectLogin}
	ids := map[string]bool{}
	profiles := smtpx.Profiles()
	generic, _ := smtpx.LookupProfile("generic")
	for name, list := range generic.Words {
		for _, phrase := range list {
			if phrase != strings.ToLower(phrase) || phrase == "" || phrase[0] == '@' || strings.Contains(phrase, " + ") {
				t.Errorf("list %s has the phrase %q", name, phrase)
			}
		}
	}
	if len(profiles) < 35 {
		t.Errorf("%d profiles, want those of every provider that is known", len(profiles))
	}
	for _, p := range profiles {
		fact := func(what string, known, value bool, source string, mark smtpx.Mark) {
			if known && (!value || source == "" || !slices.Contains(marks, mark)) {
				t.Errorf("%s: %s lacks value, source or mark", p.Name, what)
			}
		}
		fact("ports", p.Ports.Known(), len(p.Ports.Value) > 0, p.Ports.Source, p.Ports.Mark)
		fact("mechanisms", p.Mechanisms.Known(), len(p.Mechanisms.Value) > 0, p.Mechanisms.Source, p.Mechanisms.Mark)
		fact("user", p.User.Known(), p.User.Value != "", p.User.Source, p.User.Mark)
		fact("connections", p.Connections.Known(), p.Connections.Value > 0, p.Connections.Source, p.Connections.Mark)
		fact("messages", p.Messages.Known(), p.Messages.Value > 0, p.Messages.Source, p.Messages.Mark)
		fact("idle", p.Idle.Known(), p.IdleLimit() > 0 || p.Idle.Mark == smtpx.MarkUncertain, p.Idle.Source, p.Idle.Mark)
		fact("recipients", p.Recipients.Known(), p.Recipients.Value > 0, p.Recipients.Source, p.Recipients.Mark)
		fact("size", p.Size.Known(), p.Size.Value > 0, p.Size.Source, p.Size.Mark)
		fact("quota", p.Quota.Known(), p.Quota.Value != "", p.Quota.Source, p.Quota.Mark)
		fact("id", p.ID.Known(), len(p.ID.Value) > 0, p.ID.Source, p.ID.Mark)
		fact("tags", p.Tags.Known(), p.Tags.Value != "", p.Tags.Source, p.Tags.Mark)
		fact("metadata", p.Metadata.Known(), p.Metadata.Value != "", p.Metadata.Source, p.Metadata.Mark)
		fact("idempotency", p.Idempotency.Known(), p.Idempotency.Value != "", p.Idempotency.Source, p.Idempotency.Mark)
		for _, q := range p.Quirks {
			fact("quirk "+string(q.Name), true, q.Text != "" && q.Name != "", q.Source, q.Mark)
		}
		if p.Title == "" || (p.Name != "generic" && (len(p.Hosts) == 0 || !p.Ports.Known())) {
			t.Errorf("%s lacks title, hosts or ports", p.Name)
		}
		for _, r := range p.Rules {
			if ids[r.ID] || r.ID == "" || r.Source == "" || !slices.Contains(classes, r.Class) {
				t.Errorf("%s: rule %q is there twice, or lacks id, source or a class", p.Name, r.ID)
			}
			ids[r.ID] = true
			if p.Name != "generic" && !strings.HasPrefix(r.ID, p.Name+".") {
				t.Errorf("%s: rule %q does not begin with the provider's name", p.Name, r.ID)
			}
			for _, c := range r.Codes {
				if !code.MatchString(c) && c != "403" {
					t.Errorf("%s: rule %s has the code %q", p.Name, r.ID, c)
				}
			}
			for _, e := range r.Enhanced {
				if !enhanced.MatchString(e) {
					t.Errorf("%s: rule %s has the enhanced code %q", p.Name, r.ID, e)
				}
			}
			for _, s := range r.Stages {
				if !slices.Contains(stages, s) {
					t.Errorf("%s: rule %s has the stage %q", p.Name, r.ID, s)
				}
			}
			if !slices.Contains(effects, r.Effect) {
				t.Errorf("%s: rule %s has the effect %q", p.Name, r.ID, r.Effect)
			}
			for _, phrase := range slices.Concat(r.Text, r.And, r.Not) {
				for part := range strings.SplitSeq(phrase, " + ") {
					if part != strings.ToLower(part) || part == "" {
						t.Errorf("%s: rule %s has the phrase %q, which is empty or not in lower case", p.Name, r.ID, phrase)
					}
					if list, ok := strings.CutPrefix(part, "@"); ok && len(generic.Words[list]) == 0 {
						t.Errorf("%s: rule %s names the list %q, which is not there", p.Name, r.ID, list)
					}
				}
			}
		}
	}
}

// Every refusal has a class at every stage. The first digit decides last.
func TestClassifyHasAnAnswerForEverything(t *testing.T) {
	for _, stage := range []smtpx.Stage{"dial", "tls", "banner", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "dot", "idle", "new"} {
		for code := 400; code < 600; code++ {
			var none *smtpx.Profile
			class, rule := none.Classify(stage, smtpx.NewReply(code, ""))
			if class == "" || rule.ID == "unknown" || class == smtpx.ClassAmbiguous {
				t.Fatalf("%s %d is %q by rule %q", stage, code, class, rule)
			}
			if code < 500 && code != 413 && (class == smtpx.ClassRecipient || class == smtpx.ClassMessage) {
				t.Errorf("%s %d is for good: %s by rule %s", stage, code, class, rule)
			}
		}
	}
	for _, code := range []int{0, 220, 250, 354} {
		if class, rule := (*smtpx.Profile)(nil).Classify("dot", smtpx.NewReply(code, "ok")); class != "" || rule.ID != "" {
			t.Errorf("%d has class %q by rule %q", code, class, rule)
		}
	}
}

// The words of a mailbox's name do not decide what a reply means.
func TestClassifyIgnoresAddresses(t *testing.T) {
	generic, _ := smtpx.LookupProfile("generic")
	for _, local := range []string{"daily", "quota", "rate.limit", "greylist", "spamhaus", "relay.access.denied", "helo"} {
		r := smtpx.NewReply(550, "<"+local+"@example.com>: unknown user", "no mailbox "+local+"@example.com here")
		if class, rule := generic.Classify(smtpx.StageRcpt, r); class != smtpx.ClassRecipient {
			t.Errorf("%v is %s by rule %s", r, class, rule)
		}
	}
}

// The names come from replies in documentation, in the source of servers, or in published logs.
func TestMessageID(t *testing.T) {
	for _, tc := range []struct{ provider, text, want string }{
		{"ses", "Ok 01010160d7de98d8-21e57d9a-a7f4-000000", "01010160d7de98d8-21e57d9a-a7f4-000000"},
		{"sendgrid", "Ok: queued as Yo60h6C5ScGPeP5fUWU3Kw", "Yo60h6C5ScGPeP5fUWU3Kw"},
		{"sparkpost", "2.0.0 OK 95/6F-30607-EA5D4555", "95/6F-30607-EA5D4555"},
		{"mailgun", "Great success", ""},
		{"gmail", "2.0.0 OK  1700000000 d9443c01a7336-1cc29d1a5bdsm12345678plb.87 - gsmtp", "d9443c01a7336-1cc29d1a5bdsm12345678plb.87"},
		{"m365", "2.6.0 <1@example.com> [InternalId=12345678901234, Hostname=AM0PR01MB0001] Queued mail for delivery", "12345678901234"},
		{"mailersend", "Message queued as 61eec2dc16ae8b627a4b87e7", "61eec2dc16ae8b627a4b87e7"},
		{"163", "Mail OK queued as zwqz-smtp-mta-g0-1,_____wDnF4jOiCdlWH9UAQ--.45967S3 1697089742", "zwqz-smtp-mta-g0-1,_____wDnF4jOiCdlWH9UAQ--.45967S3"},
		{"163", "Mail OK queued as smtp8,DMCowACHOslvk6hWF1u7AA--.51185S2 1453888371", "smtp8,DMCowACHOslvk6hWF1u7AA--.51185S2"},
		{"generic", "Mail OK queued as UEJ2ygBnb+8toTZjKwx_CA--.36240S2", "UEJ2ygBnb+8toTZjKwx_CA--.36240S2"},
		{"yandex", "2.0.0 Ok: queued on iva1-5d1f.qloud-c.yandex.net as 1589296612-ABCDE", "1589296612-ABCDE"},
		{"generic", "2.0.0 Ok: queued as 4RkX3d1Yz5z9sW", "4RkX3d1Yz5z9sW"},
		{"generic", "2.0.0 Ok: queued as 4RkX3d1Yz5z9sW.", "4RkX3d1Yz5z9sW"},
		{"generic", "2.6.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 837B35FD17", "837B35FD17"},
		{"generic", "OK id=1r3Abc-0004xY-2Z", "1r3Abc-0004xY-2Z"},
		{"generic", " 3225 byte chunk, total 3225\nOK id=1xWqQY-0008JA-1B", "1xWqQY-0008JA-1B"},                          // Exim, CHUNKING
		{"generic", "2.0.0  221 byte chunk, total 222\n2.0.0 OK id=1mwMds-00063I-S2", "1mwMds-00063I-S2"},                // and with codes
		{"generic", "Requested mail action okay, completed: id=0MZTbD-1qM3kt2Jw1-00LNSq", "0MZTbD-1qM3kt2Jw1-00LNSq"},    // GMX
		{"generic", "2.0.0 3A7KxYz1234567 Message accepted for delivery", "3A7KxYz1234567"},                              // Sendmail
		{"generic", "2.0.0 91a151b2 Message accepted for delivery", "91a151b2"},                                          // OpenSMTPD
		{"generic", "Message Queued (5CAFC586-0A59-4A1E-9A0F-4F2F2D7B21C9.1)", "5CAFC586-0A59-4A1E-9A0F-4F2F2D7B21C9.1"}, // Haraka
		{"generic", "ok 1375388751 qp 26627", "1375388751 qp 26627"},                                                     // qmail
		{"generic", "ok 1349174460 qp 13230 by mx1.example.org", "1349174460 qp 13230"},
		{"generic", "2.0.0 Message queued with id 217700302698266624", "217700302698266624"}, // Stalwart
		{"generic", "Ok. 00000000005C1A2F.5F3B", "00000000005C1A2F.5F3B"},                    // Courier
		{"generic", "2.0.0 Ok", ""},
		{"generic", "OK accepted", ""},
		{"generic", "Ok: done", ""},
		{"generic", "OK: queued", ""},
		{"generic", "OK: queued.", ""},
		{"generic", "message queued as requested", ""},
		{"generic", "Queued (0.123 seconds)", ""},
		{"generic", "message accepted", ""},
		{"generic", "Ok: queued as evil1\x1b[31m", "evil1?[31m"},
		{"generic", "Ok: queued as " + strings.Repeat("1", 300), ""},
	} {
		p, _ := smtpx.LookupProfile(tc.provider)
		if got := p.MessageID(smtpx.NewReply(250, strings.Split(tc.text, "\n")...)); got != tc.want {
			t.Errorf("%s: %q has the id %q, want %q", tc.provider, tc.text, got, tc.want)
		}
	}
}
