package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/outboxmail/outbox"
)

// Find returns the message that a name stands for: an ID, four or more digits from the beginning or the end of one, or a
// Message-ID with or without its brackets. The error is [ErrNotFound] for none and an [*AmbiguousError] for several. To find
// the end of an ID it reads every ID.
func (s *Store) Find(ctx context.Context, name string) (outbox.ID, error) {
	id, err := s.find(ctx, strings.TrimSpace(name))
	if err != nil {
		return "", s.failed(ctx, err, "find %q", name)
	}
	return id, nil
}

func (s *Store) find(ctx context.Context, name string) (outbox.ID, error) {
	if strings.Contains(name, "@") {
		return s.findMessageID(ctx, name)
	}
	digits := strings.ToLower(strings.ReplaceAll(name, "-", ""))
	if len(digits) < 4 || len(digits) > 32 || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", fmt.Errorf("neither a message id, nor four or more hexadecimal digits of one, nor a Message-ID: %w", ErrNotFound)
	}
	pad := func(with string) string { return dashed(digits + strings.Repeat(with, 32-len(digits))) }
	ids, err := collect[outbox.ID](ctx, s.db, s.queries.get("messages_between"), pad("0"), pad("f"))
	if err != nil {
		return "", err
	}
	if len(ids) == 0 && len(digits) < 32 {
		tail := dashed(strings.Repeat("0", 32-len(digits)) + digits)
		// As many characters from the end as hold the digits, with the dashes that stand between them.
		keep, seen := len(tail), 0
		for seen < len(digits) {
			keep--
			if tail[keep] != '-' {
				seen++
			}
		}
		if ids, err = collect[outbox.ID](ctx, s.db, s.queries.get("messages_ending"), "%"+tail[keep:]); err != nil {
			return "", err
		}
	}
	return only(name, ids)
}

// findMessageID first takes the ID from the Message-ID, which works for those that this library makes. Then it looks among the
// Message-IDs that came with their messages.
func (s *Store) findMessageID(ctx context.Context, name string) (outbox.ID, error) {
	name = "<" + strings.Trim(name, "<>") + ">"
	local, _, _ := strings.Cut(name[1:], "@")
	if id, err := outbox.ParseID(local); err == nil {
		if ids, err := collect[outbox.ID](ctx, s.db, s.queries.get("message_named"), string(id), name); err != nil || len(ids) == 1 {
			return id, err
		}
	}
	ids, err := collect[outbox.ID](ctx, s.db, s.queries.get("message_by_rfc_id"), name)
	if err != nil {
		return "", err
	}
	return only(name, ids)
}

func only(name string, ids []outbox.ID) (outbox.ID, error) {
	switch len(ids) {
	case 0:
		return "", ErrNotFound
	case 1:
		return ids[0], nil
	default:
		return "", &AmbiguousError{Name: name, Candidates: ids}
	}
}

// dashed writes 32 digits as a UUID.
func dashed(d string) string {
	return d[:8] + "-" + d[8:12] + "-" + d[12:16] + "-" + d[16:20] + "-" + d[20:]
}
