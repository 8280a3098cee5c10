package smtpx

import (
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Profile is what is known of a provider. The built-in ones are data, in the files of the folder profiles, each fact with
// its source; see [Profiles] and [LookupProfile].
type Profile struct {
	// Name is the provider's short name, "generic" for servers that have none. Aliases serve as well.
	Name    string   `json:"name"`
	Aliases []string `json:"aliases,omitempty"`
	// Title is the name as people write it, and About what else they should know.
	Title string `json:"title"`
	About string `json:"about,omitempty"`
	// Hosts are patterns of host names, in which * stands for any characters but a dot.
	Hosts []string `json:"hosts,omitempty"`

	// Ports are those that take submissions, the preferred one first.
	Ports Fact[[]Port] `json:"ports,omitzero"`
	// Mechanisms are those of AUTH.
	Mechanisms Fact[[]string] `json:"mechanisms,omitzero"`
	// User tells what the user name is.
	User Fact[string] `json:"user,omitzero"`

	// Connections is the most at a time, Messages the most per connection, Idle how long a connection may say nothing,
	// Recipients the most per message, Size the most octets of one.
	Connections Fact[int]    `json:"connections,omitzero"`
	Messages    Fact[int]    `json:"messages,omitzero"`
	Idle        Fact[string] `json:"idle,omitzero"`
	Recipients  Fact[int]    `json:"recipients,omitzero"`
	Size        Fact[int]    `json:"size,omitzero"`
	// Quota tells in words what may be sent in a period.
	Quota Fact[string] `json:"quota,omitzero"`

	// ID are patterns of the 250 whose first group is the provider's name of the message.
	ID Fact[[]string] `json:"id,omitzero"`
	// Tags and Metadata are header fields that carry them, Idempotency the one that makes a repetition harmless.
	Tags        Fact[string] `json:"tags,omitzero"`
	Metadata    Fact[string] `json:"metadata,omitzero"`
	Idempotency Fact[string] `json:"idempotency,omitzero"`
	// Quirks are habits that differ from what the RFCs or common sense let one expect.
	Quirks []Quirk `json:"quirks,omitempty"`
	// Rules are the signatures of the provider's replies. They are tried before the generic ones, in their order.
	Rules []Rule `json:"rules,omitempty"`
	// Words are lists of phrases that rules name by "@name". The generic profile has those of all.
	Words map[string][]string `json:"words,omitempty"`

	ids []*regexp.Regexp
}

// Fact is something that is known about a provider, and from where.
type Fact[T any] struct {
	Value  T      `json:"value"`
	Source string `json:"source"`
	Mark   Mark   `json:"mark"`
}

// Known reports that there is such a fact.
func (f Fact[T]) Known() bool { return f.Source != "" }

// Sure reports that the fact may be built upon: it is known, and not marked as uncertain.
func (f Fact[T]) Sure() bool { return f.Known() && f.Mark != MarkUncertain }

// Mark says how well a fact is known.
type Mark string

// The marks.
const (
	MarkDocumented Mark = "documented" // by the provider
	MarkObserved   Mark = "observed"   // in a transcript or log that somebody published
	MarkCode       Mark = "code"       // in the source of a client or server
	MarkReported   Mark = "reported"   // by a third party
	MarkUncertain  Mark = "uncertain"  // a single weak source, or sources that contradict each other
)

// Port is a port and the mode of TLS to use there.
type Port struct {
	Port int     `json:"port"`
	TLS  TLSMode `json:"tls"`
}

// Quirk is one habit of a provider.
type Quirk struct {
	Name   QuirkName `json:"name"`
	Text   string    `json:"text"`
	Source string    `json:"source"`
	Mark   Mark      `json:"mark"`
}

// QuirkName names a kind of quirk.
type QuirkName string

// The kinds of quirk.
const (
	QuirkMessageID     QuirkName = "replaces-message-id" // the Message-ID that recipients see is the provider's
	QuirkDKIM          QuirkName = "breaks-dkim"         // a signature over what the provider changes does not survive
	QuirkNoPipelining  QuirkName = "no-pipelining"       // PIPELINING was not offered to those who looked; where it is, it is used
	QuirkHangsUp       QuirkName = "hangs-up"            // the connection is closed behind a message
	QuirkGarbageAtQuit QuirkName = "garbage-at-quit"     // the reply to QUIT may be anything
	QuirkLateErrors    QuirkName = "late-errors"         // messages are accepted first and refused by a bounce
	QuirkEHLO          QuirkName = "strict-ehlo"         // the EHLO name must be a real one
	QuirkSender        QuirkName = "strict-sender"       // the sender must belong to the login
	QuirkSentItems     QuirkName = "keeps-copy"          // a copy goes to the sender's mailbox
	QuirkFolding       QuirkName = "folds-addresses"     // several spellings of an address are one mailbox
	QuirkOther         QuirkName = "other"
)

// Quirk tells whether the provider has a quirk.
func (p *Profile) Quirk(name QuirkName) bool {
	return slices.ContainsFunc(p.Quirks, func(q Quirk) bool { return q.Name == name && q.Mark != MarkUncertain })
}

// IdleLimit is the value of Idle if it may be built upon, else 0.
func (p *Profile) IdleLimit() time.Duration {
	if !p.Idle.Sure() {
		return 0
	}
	d, err := time.ParseDuration(p.Idle.Value)
	if err != nil {
		return 0
	}
	return d
}

// Endpoint completes a port and a mode of TLS. A port of 0 and the modes "" and [TLSRequired] leave the choice to the profile.
// Where both are left open, it takes the provider's preferred port. Where one is given, it takes the first port of the provider
// that fits. Without such a port it takes 465 for [TLSImplicit] and 587 for the others; port 465 means [TLSImplicit], and any other
// port [TLSStartTLS]. It never chooses [TLSNone], which must be asked for. A nil profile has no ports. The returned mode is never ""
// or [TLSRequired].
func (p *Profile) Endpoint(port int, mode TLSMode) (int, TLSMode) {
	open := mode == "" || mode == TLSRequired
	if p != nil && p.Ports.Sure() {
		for _, known := range p.Ports.Value {
			if (port == 0 || known.Port == port) && (open || serves(known.TLS, mode)) {
				port = known.Port
				if open {
					mode = known.TLS
				}
				break
			}
		}
	}
	if open && mode != TLSImplicit && mode != TLSStartTLS {
		mode = TLSStartTLS
		if port == 465 {
			mode = TLSImplicit
		}
	}
	switch {
	case port != 0:
	case mode == TLSImplicit:
		port = 465
	default:
		port = 587
	}
	return port, mode
}

// serves tells whether a port with the mode of a profile takes a session in another mode: all but TLSImplicit begin in clear text.
func serves(port, mode TLSMode) bool {
	return port == mode || (port != TLSImplicit && mode != TLSImplicit)
}

//go:embed profiles/*.json
var profileFiles embed.FS

// builtin are the profiles by name and alias. generic is the profile of servers that have none.
var (
	builtin = mustLoad()
	generic = builtin["generic"]
	// vocabulary are the lists of phrases that the rules of all profiles may name.
	vocabulary = generic.Words
)

// mustLoad reads the profiles, which are part of the program: a mistake in them is one of ours.
func mustLoad() map[string]*Profile {
	all := make(map[string]*Profile)
	names, err := profileFiles.ReadDir("profiles")
	for _, entry := range names {
		p := new(Profile)
		data, rerr := profileFiles.ReadFile("profiles/" + entry.Name())
		if rerr == nil {
			rerr = json.Unmarshal(data, p)
		}
		if rerr != nil {
			err = fmt.Errorf("%s: %w", entry.Name(), rerr)
			break
		}
		for _, pattern := range p.ID.Value {
			p.ids = append(p.ids, regexp.MustCompile(pattern))
		}
		for _, name := range append([]string{p.Name}, p.Aliases...) {
			all[name] = p
		}
	}
	if err != nil {
		panic(fmt.Sprintf("smtpx: profiles: %v", err))
	}
	return all
}

// LookupProfile finds a built-in profile by its name or an alias, in any case. The profile must not be changed.
func LookupProfile(name string) (*Profile, bool) {
	p, ok := builtin[strings.ToLower(name)]
	return p, ok
}

// DetectProfile finds the profile for a host name. It is the generic one if no other matches, never nil.
func DetectProfile(host string) *Profile {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	for _, p := range Profiles() {
		if slices.ContainsFunc(p.Hosts, func(pattern string) bool { return matchHost(pattern, host) }) {
			return p
		}
	}
	return generic
}

// matchHost compares label by label, so that * does not reach over a dot.
func matchHost(pattern, host string) bool {
	patterns, labels := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(patterns) != len(labels) {
		return false
	}
	for i := range labels {
		if ok, err := path.Match(patterns[i], labels[i]); !ok || err != nil {
			return false
		}
	}
	return true
}

// Profiles returns the built-in profiles in the order of their names. They must not be changed.
func Profiles() []*Profile {
	var list []*Profile
	for _, name := range slices.Sorted(maps.Keys(builtin)) {
		if p := builtin[name]; p.Name == name {
			list = append(list, p)
		}
	}
	return list
}
