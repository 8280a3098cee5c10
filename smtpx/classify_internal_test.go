package smtpx

import "testing"

// A full mailbox is no dead address.
func TestMailboxFull(t *testing.T) {
	for _, tc := range []struct {
		stage Stage
		code  int
		text  string
		want  bool
	}{
		{StageRcpt, 552, "5.2.2 Mailbox is full", true},
		{StageRcpt, 550, "5.2.2 user is over quota", true},
		{StageRcpt, 552, "", true},
		{StageRcpt, 452, "4.2.2 over quota", true},
		{StageDot, 552, "the recipient's inbox is full", true},
		{StageRcpt, 550, "5.1.1 no such user", false},
		{StageRcpt, 554, "5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", false},
		{StageMail, 552, "5.3.4 message too big", false},
		{StageDot, 554, "your account is over its daily quota", false},
	} {
		r := NewReply(tc.code, tc.text)
		class, rule := generic.Classify(tc.stage, r)
		// What a relay says becomes such an error; that of another transport has no rule.
		if got := refusal(generic, tc.stage, r).MailboxFull(); got != tc.want {
			t.Errorf("%s: %v (%s by %s): full %v, want %v", tc.stage, r, class, rule, got, tc.want)
		}
	}
	foreign := &Error{Class: ClassRecipient, Stage: StageRcpt, Reply: NewReply(550, "5.2.2 full")}
	if !foreign.MailboxFull() {
		t.Error("an error without a rule goes by its code")
	}
}
