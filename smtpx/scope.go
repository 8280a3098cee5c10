package smtpx

// Scope says how much a failure concerns: whoever must stop something for it need not stop more than that.
type Scope string

// The scopes, from the narrowest to the widest.
const (
	// ScopeRecipient: this recipient of this message. Everything else may go on.
	ScopeRecipient Scope = "recipient"
	// ScopeMessage: this message, whoever it goes to.
	ScopeMessage Scope = "message"
	// ScopeSession: this connection. A new one may do what it did not.
	ScopeSession Scope = "session"
	// ScopeSender: messages with this sender, or from this sender to recipients like this one. Those of other senders may be
	// taken; only when they are refused alike is it the relay that must be mended.
	ScopeSender Scope = "sender"
	// ScopeLogin: the account at the relay: everything that is sent with these credentials.
	ScopeLogin Scope = "login"
	// ScopeRelay: the relay as it is configured, or this host in its eyes: everything that would be sent through it.
	ScopeRelay Scope = "relay"
)

// Scope says what the failure concerns. It is that of the rule where the rule has one; otherwise it follows from Class and
// Stage, also for an Error that did not come from this package. A failure without a class concerns the relay.
func (e *Error) Scope() Scope {
	if e.scope != "" {
		return e.scope
	}
	return defaultScope(e.Class, e.Stage)
}

func defaultScope(class Class, stage Stage) Scope {
	switch class {
	case ClassRecipient:
		return ScopeRecipient
	case ClassMessage, ClassAmbiguous:
		return ScopeMessage
	case ClassRecycle:
		return ScopeSession
	case ClassQuota:
		return ScopeLogin
	case ClassThrottled:
		if stage == StageAuth {
			return ScopeLogin
		}
	case ClassTransient:
		switch {
		case stage == StageRcpt:
			return ScopeRecipient
		case stage == StageAuth:
			return ScopeLogin
		case inTransaction(stage):
			return ScopeMessage
		}
	case ClassConfig:
		switch {
		case stage == StageAuth:
			return ScopeLogin
		case inTransaction(stage):
			return ScopeSender
		}
	case ClassUnreachable:
	}
	return ScopeRelay
}

// inTransaction tells whether a stage is part of sending a message.
func inTransaction(s Stage) bool {
	return s == StageMail || s == StageRcpt || s == StageData || s == StageDot
}
