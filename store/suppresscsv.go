package store

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/outboxmail/outbox/internal/letter"
	"github.com/outboxmail/outbox/internal/textfile"
)

// LineError is the error of one line of a file. Reading goes on with the next line.
type LineError struct {
	// Line is the first line, counted from 1, and Last the last one: an open quote may take many.
	Line, Last int
	Err        error
}

// Error names the line.
func (e *LineError) Error() string {
	if e.Last > e.Line {
		return fmt.Sprintf("lines %d to %d: %v", e.Line, e.Last, e.Err)
	}
	return fmt.Sprintf("line %d: %v", e.Line, e.Err)
}

// Unwrap returns Err.
func (e *LineError) Unwrap() error { return e.Err }

// ErrNoAddresses says that the header of a suppression list names columns, but none of addresses.
var ErrNoAddresses = errors.New("the header names no column of addresses")

// columnNames lists the names that the exports of providers give to the columns of a suppression list.
var columnNames = map[string][]string{
	"address": {"address", "email", "e-mail", "email address", "emailaddress", "email_address", "recipient", "to"},
	"reason":  {"reason", "description", "details", "error", "diagnostic"},
	"source":  {"source", "type", "origin", "suppression_reason", "suppressionreason"},
}

// ReadSuppressions reads a suppression list from CSV (RFC 4180) for [Store.Suppress]: address, reason and source. The last two
// may be missing. If the first line names columns, as the exports of providers do, the columns are found by their names in any
// order, and unknown ones are ignored. One of them must hold addresses. Addresses get the form that deliveries have. Blank
// lines are ignored.
//
// A line that cannot be read is a [*LineError], and the sequence goes on. Any other error ends it: [ErrNoAddresses], or the
// error of the reader.
func ReadSuppressions(r io.Reader) iter.Seq2[Suppression, error] {
	return func(yield func(Suppression, error) bool) {
		lines := csv.NewReader(textfile.NewReader(r))
		lines.FieldsPerRecord = -1
		lines.TrimLeadingSpace = true
		lines.ReuseRecord = true
		columns := map[string]int{"address": 0, "reason": 1, "source": 2}
		named := false
		for first := true; ; first = false {
			record, err := lines.Read()
			var broken *csv.ParseError
			switch {
			case errors.Is(err, io.EOF):
				return
			case errors.As(err, &broken):
				if !yield(Suppression{}, &LineError{Line: broken.StartLine, Last: broken.Line, Err: broken.Err}) {
					return
				}
				continue
			case err != nil:
				yield(Suppression{}, fmt.Errorf("read the suppression list: %w", err))
				return
			}
			line, _ := lines.FieldPos(0)
			if first {
				var found map[string]int
				if found, named = header(record); named {
					if _, ok := found["address"]; !ok {
						yield(Suppression{}, fmt.Errorf("line %d: %w", line, ErrNoAddresses))
						return
					}
					columns = found
					continue
				}
			}
			s, err := suppressionOf(record, columns, named)
			if err != nil {
				err = &LineError{Line: line, Last: line, Err: err}
			}
			if !yield(s, err) {
				return
			}
		}
	}
}

// header finds the columns by name. It is false for a line that is data: one with an address, or without a known name.
func header(record []string) (columns map[string]int, ok bool) {
	columns = make(map[string]int)
	for i, field := range record {
		name := strings.ToLower(strings.TrimSpace(field))
		if strings.Contains(name, "@") {
			return nil, false
		}
		for column, names := range columnNames {
			if _, twice := columns[column]; !twice && slices.Contains(names, name) {
				columns[column] = i
			}
		}
	}
	return columns, len(columns) > 0
}

// suppressionOf makes an entry of a line.
func suppressionOf(record []string, columns map[string]int, named bool) (Suppression, error) {
	if !named && len(record) > len(columns) {
		return Suppression{}, fmt.Errorf("there are %d fields, more than address, reason and source", len(record))
	}
	field := func(column string) string {
		i, ok := columns[column]
		if !ok || i >= len(record) {
			return ""
		}
		return strings.TrimSpace(record[i])
	}
	m, err := letter.ParseMailbox(field("address"))
	if err != nil {
		return Suppression{}, fmt.Errorf("address %w", err)
	}
	return Suppression{Address: m.Addr, Reason: field("reason"), Source: field("source")}, nil
}
