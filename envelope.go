package outbox

import "github.com/outboxmail/outbox/internal/letter"

// envelope is the return path and the recipients of a message, which the header need not show.
type envelope struct {
	sender     string // empty for the null return path
	recipients []string
}

// parseSender reads EnvelopeFrom, which defaults to the author.
func parseSender(s, author string) (string, error) {
	switch s {
	case "":
		return author, nil
	case "<>":
		return "", nil
	}
	m, err := letter.ParseMailbox(s)
	if err != nil {
		return "", invalid("EnvelopeFrom", "%w", err)
	}
	return m.Addr, nil
}

// parseAddresses checks a list of addresses.
func parseAddresses(field string, list []Address) ([]letter.Mailbox, error) {
	if len(list) == 0 {
		return nil, nil
	}
	checked := make([]letter.Mailbox, len(list))
	for i, a := range list {
		m, err := letter.ParseAddress(a)
		if err != nil {
			return nil, invalid(field, "address %d: %w", i+1, err)
		}
		checked[i] = m
	}
	return checked, nil
}

// recipients lists the mailboxes of the envelope, each once, in the order of the lists.
func (o *Outbox) recipients(lists ...[]letter.Mailbox) ([]string, error) {
	n := 0
	for _, list := range lists {
		n += len(list)
	}
	all := make([]string, 0, n)
	var seen map[string]struct{}
	if n > 1 {
		seen = make(map[string]struct{}, n)
	}
	for _, list := range lists {
		for i := range list {
			addr := list[i].Addr
			if _, again := seen[addr]; again {
				continue
			}
			if seen != nil {
				seen[addr] = struct{}{}
			}
			all = append(all, addr)
		}
	}
	switch {
	case len(all) == 0:
		return nil, invalid("To", "the message has no recipient")
	case len(all) > o.maxRecipients:
		return nil, invalid("To", "the message has %d recipients, more than %d", len(all), o.maxRecipients)
	}
	return all, nil
}
