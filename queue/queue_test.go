package queue

import "testing"

func TestPermanent(t *testing.T) {
	for _, test := range []struct {
		name string
		f    Feedback
		want bool
	}{
		{"a delivery", Feedback{Kind: FeedbackDelivered}, false},
		{"a delay", Feedback{Kind: FeedbackDelayed, Code: 550}, false},
		{"a complaint", Feedback{Kind: FeedbackComplained}, true},
		{"a complaint with a temporary code", Feedback{Kind: FeedbackComplained, Code: 421}, true},
		{"a bounce without codes", Feedback{Kind: FeedbackBounced}, true},
		{"a permanent bounce", Feedback{Kind: FeedbackBounced, Code: 550, Enhanced: "5.1.1"}, true},
		{"a temporary code", Feedback{Kind: FeedbackBounced, Code: 451}, false},
		{"a temporary enhanced code", Feedback{Kind: FeedbackBounced, Enhanced: "4.2.2"}, false},
		{"codes that differ", Feedback{Kind: FeedbackBounced, Code: 550, Enhanced: "4.2.2"}, false},
		{"an unknown kind", Feedback{Kind: "opened"}, false},
	} {
		if got := test.f.Permanent(); got != test.want {
			t.Errorf("%s: Permanent() = %v", test.name, got)
		}
	}
}

func TestFeedbackKinds(t *testing.T) {
	for kind, want := range map[FeedbackKind]bool{
		FeedbackDelivered: true, FeedbackDelayed: true, FeedbackBounced: true, FeedbackComplained: true, "": false, "Bounced": false,
	} {
		if kind.Valid() != want {
			t.Errorf("%q.Valid() = %v", kind, !want)
		}
	}
}

func TestRefOfAClaim(t *testing.T) {
	c := Claimed{ID: "m", Token: "t", Deliveries: []ClaimedDelivery{{Seq: 2}, {Seq: 5}}}
	if got := c.Ref(1); got != (Ref{ID: "m", Seq: 5, Token: "t"}) {
		t.Errorf("the second delivery has the ref %+v", got)
	}
}
