package smtpx

// Scope says how much a failure concerns. Everything outside the scope may go on.
type Scope string

// The scopes, from the narrowest to the widest.
const (
	// ScopeRecipient: this recipient of this message. Everything else may go on.
	ScopeRecipient Scope = "recipient"
	// ScopeMessage: this message for all its recipients.
	ScopeMessage Scope = "message"
	// ScopeSession: this connection. A new one may succeed.
	ScopeSession Scope = "session"
	// ScopeSender: messages with this sender, or from this sender to recipients like this one. Messages of other senders may be
	// accepted. If they are refused, too, the relay is at fault.
	ScopeSender Scope = "sender"
	// ScopeLogin: everything that is sent with these credentials.
	ScopeLogin Scope = "login"
	// ScopeRelay: everything that would be sent through the relay, as it is configured or from this host.
	ScopeRelay Scope = "relay"
)

// Scope returns what the failure concerns: the scope of the rule, or else what follows from Class and Stage. It also works for
// an Error made outside this package. A failure without a class concerns the relay.
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
