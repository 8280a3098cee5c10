package smtpx

import (
	"strings"
	"testing"
	"time"
)

func TestStatedRetry(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"450 4.7.1 <a@b.example>: Recipient address rejected: Greylisted, try again in 300 seconds": 5 * time.Minute,
		"451 4.7.1 Greylisting in action, please come back in 00:04:59":                             4*time.Minute + 59*time.Second,
		"451 Greylisted for 5 minutes":                                       5 * time.Minute,
		"421 Too many connections, please retry after 60s":                   time.Minute,
		"421 4.7.0 Rate limited. Wait at least 1 hour before you send again": time.Hour,
		"450 You are sending too fast; try again in 1 min.":                  time.Minute,
		"454 4.7.0 Too many login attempts, please try again in 15 minutes":  15 * time.Minute,
		"450 4.2.1 Retry-After: 120 secs":                                    2 * time.Minute,
		"452 Mailbox full, will retry for 400 days":                          24 * time.Hour,
		"421 Service unavailable, try again in 999999 hours":                 24 * time.Hour,
		"450 try again later":                                                0,
		"451 You have exceeded 100 messages per 60 minutes":                  0,
		"451 Try again later. You have sent 3 messages in 20 seconds":        0,
		"451 please wait": 0,
		"450 4.2.1 again and again and more and more and more and more and 5 s": 0,
		"450 again in 99:99:99":      0,
		"451 try again in 0 seconds": 0,
	} {
		code, rest, _ := strings.Cut(text, " ")
		r := NewReply(atoi(code), rest)
		if got := statedRetry(plainText(r.Text())); got != want {
			t.Errorf("%q asks for %v, want %v", text, got, want)
		}
	}
}

func TestRetryAfterByRuleAndPeriod(t *testing.T) {
	for _, tc := range []struct {
		provider string
		stage    Stage
		code     int
		text     string
		want     time.Duration
	}{
		{"ses", StageDot, 454, "Throttling failure: Daily message quota exceeded.", time.Hour},
		{"ses", StageDot, 454, "Throttling failure: Maximum sending rate exceeded.", 0},
		{"gmail", StageAuth, 454, "4.7.0 Too many login attempts, please try again later.", 15 * time.Minute},
		{"gmail", StageDot, 550, "5.4.5 Daily user sending limit exceeded.", time.Hour},
		{"sendgrid", StageRcpt, 452, "Too many mails received this hour", 10 * time.Minute},
		{"163", StageMail, 451, "DT:SPM please try again", 2 * time.Minute},
		{"generic", StageMail, 451, "4.7.1 Sorry, sending limits exceeded: 500 per hour", 10 * time.Minute},
		{"generic", StageMail, 450, "limit of 30 messages per minute", time.Minute},
		{"generic", StageMail, 452, "4.2.2 You have exceeded your monthly email allowance", time.Hour},
		{"generic", StageAuth, 535, "Account has insufficient credits", time.Hour},
		{"generic", StageRcpt, 451, "4.7.1 Greylisted, try again in 2 minutes", 2 * time.Minute},
		{"generic", StageRcpt, 550, "5.1.1 no such user, do not try again in 5 minutes", 0},
		{"generic", StageMail, 451, "local error", 0},
	} {
		p, ok := LookupProfile(tc.provider)
		if !ok {
			t.Fatalf("no profile %s", tc.provider)
		}
		e := refusal(p, tc.stage, NewReply(tc.code, tc.text))
		if e.RetryAfter != tc.want {
			t.Errorf("%s: %v (%s by %s): wait %v, want %v", tc.provider, e.Reply, e.Class, e.Rule, e.RetryAfter, tc.want)
		}
	}
}

func TestScopeOfReplies(t *testing.T) {
	for _, tc := range []struct {
		provider string
		stage    Stage
		code     int
		text     string
		class    Class
		want     Scope
	}{
		{"ses", StageDot, 554, "Message rejected: Email address is not verified.", ClassConfig, ScopeSender},
		{"ses", StageDot, 554, "Message rejected: Sending suspended for this account.", ClassConfig, ScopeLogin},
		{"ses", StageAuth, 535, "Authentication Credentials Invalid", ClassConfig, ScopeLogin},
		{"ses", StageDot, 454, "Throttling failure: Daily message quota exceeded.", ClassQuota, ScopeLogin},
		{"m365", StageDot, 554, "5.2.252 SendAsDenied; a@b.example not allowed to send as c@b.example", ClassConfig, ScopeSender},
		{"m365", StageAuth, 535, "5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled", ClassConfig, ScopeLogin},
		{"sendgrid", StageMail, 550, "Unauthenticated senders not allowed", ClassConfig, ScopeLogin},
		{"sendgrid", StageDot, 550, "The from address does not match a verified Sender Identity.", ClassConfig, ScopeSender},
		{"generic", StageMail, 553, "5.7.1 <a@b.example>: Sender address rejected: not owned by user c", ClassConfig, ScopeSender},
		{"generic", StageMail, 530, "5.7.0 Must issue a STARTTLS command first", ClassConfig, ScopeRelay},
		{"generic", StageMail, 530, "5.7.0 Authentication required", ClassConfig, ScopeLogin},
		{"generic", StageRcpt, 554, "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", ClassConfig, ScopeRelay},
		{"generic", StageRcpt, 504, "5.5.2 <x>: Helo command rejected: need fully-qualified hostname", ClassConfig, ScopeRelay},
		{"generic", StageRcpt, 550, "5.1.1 user unknown", ClassRecipient, ScopeRecipient},
		{"generic", StageRcpt, 451, "4.7.1 Greylisted", ClassTransient, ScopeRecipient},
		{"generic", StageDot, 451, "4.3.0 local error", ClassTransient, ScopeMessage},
		{"generic", StageDot, 554, "5.6.0 bad content", ClassMessage, ScopeMessage},
		{"generic", StageAuth, 454, "4.7.0 Temporary authentication failure", ClassTransient, ScopeLogin},
		{"generic", StageAuth, 454, "4.7.0 Too many login attempts", ClassThrottled, ScopeLogin},
		{"generic", StageBanner, 554, "no SMTP service here", ClassUnreachable, ScopeRelay},
		{"generic", StageMail, 421, "4.7.0 too many messages in this session", ClassRecycle, ScopeSession},
		{"generic", StageMail, 421, "4.7.0 sending rate exceeded", ClassThrottled, ScopeRelay},
	} {
		p, ok := LookupProfile(tc.provider)
		if !ok {
			t.Fatalf("no profile %s", tc.provider)
		}
		e := refusal(p, tc.stage, NewReply(tc.code, tc.text))
		if e.Class != tc.class || e.Scope() != tc.want {
			t.Errorf("%s %s: %v: class %s, scope %s by %s; want %s, %s", tc.provider, tc.stage, e.Reply, e.Class, e.Scope(), e.Rule,
				tc.class, tc.want)
		}
	}
}

// A rule for a fault that an operator must mend has a scope, because stage and class are not enough from MAIL on.
func TestConfigRulesHaveAScope(t *testing.T) {
	for _, p := range Profiles() {
		for _, r := range p.Rules {
			early := len(r.Stages) > 0
			for _, s := range r.Stages {
				early = early && s != StageRcpt && s != StageData && s != StageDot
			}
			switch r.Scope {
			case "":
				if r.Class == ClassConfig && !early {
					t.Errorf("rule %s has no scope", r.ID)
				}
			case ScopeRecipient, ScopeMessage, ScopeSession, ScopeSender, ScopeLogin, ScopeRelay:
			default:
				t.Errorf("rule %s has the scope %q", r.ID, r.Scope)
			}
			if r.Retry != "" && ruleRetry(&r) <= 0 {
				t.Errorf("rule %s is to be retried after %q", r.ID, r.Retry)
			}
		}
	}
}

// Errors made outside the package have a scope as well.
func TestScopeWithoutARule(t *testing.T) {
	for _, tc := range []struct {
		e    Error
		want Scope
	}{
		{Error{}, ScopeRelay},
		{Error{Class: ClassAmbiguous, Stage: StageDot}, ScopeMessage},
		{Error{Class: ClassConfig, Stage: StageTLS}, ScopeRelay},
		{Error{Class: ClassConfig, Stage: StageAuth}, ScopeLogin},
		{Error{Class: ClassConfig, Stage: StageMail}, ScopeSender},
		{Error{Class: ClassUnreachable, Stage: StageDial}, ScopeRelay},
		{Error{Class: ClassTransient, Stage: StageRcpt}, ScopeRecipient},
		{Error{Class: ClassTransient, Stage: StageIdle}, ScopeRelay},
	} {
		if got := tc.e.Scope(); got != tc.want {
			t.Errorf("%s at %s concerns %s, want %s", tc.e.Class, tc.e.Stage, got, tc.want)
		}
	}
}

func TestStatedMoment(t *testing.T) {
	now := time.Date(2035, time.January, 1, 9, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"limit reached, not before mon, 01 jan 2035 10:00:00 utc": time.Hour,
		"blocked until monday, 1 january 2035 09:30 gmt":          30 * time.Minute,
		"quota resets at 2035-01-01t09:10:00z":                    10 * time.Minute,
		"quota resets on 2035-01-01 12:00:00 +02:00":              time.Hour,
		"try again after 2035-01-01t10:00:00.123+0000":            time.Hour,
		"until mon, 01 jan 2035 05:00:00 -0500":                   time.Hour,
		"until sun, 31 dec 2034 10:00:00 utc":                     0, // it is over
		"until mon, 01 jan 2036 10:00:00 utc":                     maxRetryAfter,
		"until mon, 41 jan 2035 10:00:00 utc":                     0,
		"message of mon, 01 jan 2035 10:00:00 utc refused":        0,
		"until further notice":                                    0,
		"until 2035-13-01t10:00:00z":                              0,
	} {
		if got := statedMoment(text, now); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
