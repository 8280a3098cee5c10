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

// Profile holds the facts about a provider, each with its source. The built-in profiles are the files of the folder profiles: see
// [Profiles] and [LookupProfile].
type Profile struct {
	// Name is the short name of the provider, "generic" for servers without a profile. Aliases find it, too.
	Name    string   `json:"name"`
	Aliases []string `json:"aliases,omitempty"`
	// Title is the name as people write it. About tells what else an operator should know.
	Title string `json:"title"`
	About string `json:"about,omitempty"`
	// Hosts are patterns of host names. A * stands for any characters but a dot.
	Hosts []string `json:"hosts,omitempty"`

	// Ports are the ports that take submissions, the preferred one first. See [Profile.Endpoint].
	Ports Fact[[]Port] `json:"ports,omitzero"`
	// Mechanisms are the mechanisms of AUTH.
	Mechanisms Fact[[]string] `json:"mechanisms,omitzero"`
	// User tells in words what the user name is.
	User Fact[string] `json:"user,omitzero"`
	// OAuth tells where tokens come from.
	OAuth Fact[OAuthEndpoint] `json:"oauth,omitzero"`

	// Connections is the largest number of connections at a time.
	Connections Fact[int] `json:"connections,omitzero"`
	// Dials is the largest number of new connections in a period, such as "10/m".
	Dials Fact[string] `json:"dials,omitzero"`
	// Messages is the largest number of messages on a connection.
	Messages Fact[int] `json:"messages,omitzero"`
	// Idle is the time after which an idle connection is closed, such as "10s". See [Profile.IdleLimit].
	Idle Fact[string] `json:"idle,omitzero"`
	// Recipients is the largest number of recipients of a message.
	Recipients Fact[int] `json:"recipients,omitzero"`
	// Size is the largest size of a message, in octets.
	Size Fact[int] `json:"size,omitzero"`
	// Quota tells in words how much may be sent in a period.
	Quota Fact[string] `json:"quota,omitzero"`

	// ID are regular expressions for the 250. The first group is the provider's name of the message.
	ID Fact[[]string] `json:"id,omitzero"`
	// Tags is the header field for tags.
	Tags Fact[string] `json:"tags,omitzero"`
	// Metadata is the header field for metadata.
	Metadata Fact[string] `json:"metadata,omitzero"`
	// Idempotency is the header field that makes a repetition harmless.
	Idempotency Fact[string] `json:"idempotency,omitzero"`
	// Quirks are habits that differ from the RFCs.
	Quirks []Quirk `json:"quirks,omitempty"`
	// Rules tell the meaning of the provider's replies. They are tried in their order, before the generic rules.
	Rules []Rule `json:"rules,omitempty"`
	// Words are lists of phrases that rules name by "@name". Only the generic profile has such lists; the rules of all profiles use them.
	Words map[string][]string `json:"words,omitempty"`

	ids []*regexp.Regexp
}

// Fact is something that is known about a provider, with its source.
type Fact[T any] struct {
	Value  T      `json:"value"`
	Source string `json:"source"`
	Mark   Mark   `json:"mark"`
}

// Known reports whether there is such a fact.
func (f Fact[T]) Known() bool { return f.Source != "" }

// Sure reports whether the fact is known and not marked as uncertain. The client acts upon sure facts only.
func (f Fact[T]) Sure() bool { return f.Known() && f.Mark != MarkUncertain }

// Mark tells how well a fact is known.
type Mark string

// The marks, from the best to the weakest.
const (
	MarkDocumented Mark = "documented" // the provider says so
	MarkObserved   Mark = "observed"   // a published transcript or log shows it
	MarkCode       Mark = "code"       // the code of a client or server does it
	MarkReported   Mark = "reported"   // a third party says so
	MarkUncertain  Mark = "uncertain"  // a single weak source, or sources that contradict each other
)

// Port is a port and its mode of TLS.
type Port struct {
	Port int     `json:"port"`
	TLS  TLSMode `json:"tls"`
}

// Quirk is a habit of a provider, with its source.
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
	QuirkMessageID     QuirkName = "replaces-message-id" // recipients see a Message-ID of the provider
	QuirkDKIM          QuirkName = "breaks-dkim"         // the provider changes what a signature covers
	QuirkNoPipelining  QuirkName = "no-pipelining"       // PIPELINING was not offered; it is used where it is offered
	QuirkHangsUp       QuirkName = "hangs-up"            // the server closes the connection after each message
	QuirkGarbageAtQuit QuirkName = "garbage-at-quit"     // the reply to QUIT may be anything
	QuirkLateErrors    QuirkName = "late-errors"         // the provider accepts messages first and sends bounces later
	QuirkEHLO          QuirkName = "strict-ehlo"         // the EHLO name must be a real one
	QuirkSender        QuirkName = "strict-sender"       // the sender must belong to the login
	QuirkSentItems     QuirkName = "keeps-copy"          // a copy goes to the sender's mailbox
	QuirkFolding       QuirkName = "folds-addresses"     // several spellings of an address are one mailbox
	QuirkOther         QuirkName = "other"
)

// Quirk reports whether the provider is known to have a quirk.
func (p *Profile) Quirk(name QuirkName) bool {
	return slices.ContainsFunc(p.Quirks, func(q Quirk) bool { return q.Name == name && q.Mark != MarkUncertain })
}

// IdleLimit returns the value of Idle, or 0 if it is not sure.
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

// Endpoint completes a port and a mode of TLS. It chooses a port for 0, and a mode for "" and [TLSRequired]. It takes the first port of
// the provider that fits what was given. If none fits, port 465 goes with [TLSImplicit], and 587 with the other modes; any other port
// gets [TLSStartTLS]. It never chooses [TLSNone]. A nil profile has no ports. The returned mode is never "" or [TLSRequired].
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

// serves reports whether a port whose mode is known takes a session in another mode. All modes but TLSImplicit begin in clear text.
func serves(port, mode TLSMode) bool {
	return port == mode || (port != TLSImplicit && mode != TLSImplicit)
}

//go:embed profiles/*.json
var profileFiles embed.FS

var (
	// builtin holds the profiles by name and alias.
	builtin = mustLoad()
	// generic is the profile of servers that have none of their own.
	generic = builtin["generic"]
	// vocabulary holds the lists of phrases that the rules of all profiles may name.
	vocabulary = generic.Words
)

// mustLoad reads the built-in profiles. It panics if one cannot be read, because they are part of the program.
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

// LookupProfile returns the built-in profile of that name or alias, ignoring case. Do not change it.
func LookupProfile(name string) (*Profile, bool) {
	p, ok := builtin[strings.ToLower(name)]
	return p, ok
}

// DetectProfile returns the profile for a host name. It returns the generic profile if no other matches.
func DetectProfile(host string) *Profile {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	for _, p := range Profiles() {
		if slices.ContainsFunc(p.Hosts, func(pattern string) bool { return matchHost(pattern, host) }) {
			return p
		}
	}
	return generic
}

// matchHost reports whether a host name matches a pattern, label by label.
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

// Profiles returns the built-in profiles in the order of their names. Do not change them.
func Profiles() []*Profile {
	var list []*Profile
	for _, name := range slices.Sorted(maps.Keys(builtin)) {
		if p := builtin[name]; p.Name == name {
			list = append(list, p)
		}
	}
	return list
}
