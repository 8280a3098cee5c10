package output

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
)

// Printer writes in the chosen format.
type Printer struct {
	out     io.Writer
	streams *iostreams.Streams
	format  Format
	header  bool // name the columns of TSV
	fields  []string
}

// Format returns the chosen format.
func (p *Printer) Format() Format { return p.format }

// Human reports whether the output is a table on a terminal. Sentences and relative times are for such output only.
func (p *Printer) Human() bool { return p.format == Table && p.streams.OutTTY }

// Object writes one object as its JSON, its id, or its rows.
func (p *Printer) Object(v any, id string, rows func(*Rows)) error {
	switch p.format {
	case JSON, NDJSON:
		text, err := p.encode(v)
		if err != nil {
			return err
		}
		if p.format == JSON {
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, text, "", "  "); err != nil {
				return err
			}
			text = pretty.Bytes()
		}
		_, err = p.out.Write(append(text, '\n'))
		return err
	case ID:
		_, err := fmt.Fprintln(p.out, id)
		return err
	default:
		r := p.rows()
		rows(r)
		r.flush()
		return r.err
	}
}

// List describes how to write the items of a list.
type List[T any] struct {
	// Name is the field of the JSON object that holds the items.
	Name string
	// Columns are the headers of the table. Names are those of the columns of TSV, for --header.
	Columns []Column
	Names   []string
	// JSON, ID and Cells convert an item for the formats.
	JSON  func(T) any
	ID    func(T) string
	Cells func(T) []Cell
}

// Print writes the items and returns their number. Memory does not grow with that number. If the sequence ends with an
// error, Print leaves the JSON unfinished, and a reader cannot take it for complete.
func (l List[T]) Print(p *Printer, items iter.Seq2[T, error]) (n int, err error) {
	out := bufio.NewWriter(p.out)
	printed := *p
	printed.out = out
	each, end := l.writer(&printed)
	for item, err := range items {
		if err == nil {
			err = each(n, item)
		}
		if err != nil {
			out.Flush()
			return n, err
		}
		n++
	}
	if err := end(n); err != nil {
		return n, err
	}
	return n, out.Flush()
}

// writer returns each, which writes item number n from 0, and end, which is called once after n items.
func (l List[T]) writer(p *Printer) (each func(int, T) error, end func(int) error) {
	switch p.format {
	case JSON:
		return l.jsonWriter(p)
	case NDJSON:
		each = func(_ int, item T) error {
			text, err := p.encode(l.JSON(item))
			if err == nil {
				_, err = p.out.Write(append(text, '\n'))
			}
			return err
		}
	case ID:
		last := ""
		each = func(_ int, item T) error {
			id := l.ID(item)
			if id == last { // the deliveries of a message follow one another
				return nil
			}
			last = id
			_, err := fmt.Fprintln(p.out, id)
			return err
		}
	default:
		r := p.rows(l.Columns...)
		r.Head(l.Names...)
		each = func(_ int, item T) error {
			r.Add(l.Cells(item)...)
			return r.err
		}
		return each, func(int) error {
			r.flush()
			return r.err
		}
	}
	return each, func(int) error { return nil }
}

func (l List[T]) jsonWriter(p *Printer) (each func(int, T) error, end func(int) error) {
	each = func(n int, item T) error {
		text, err := p.choose(l.JSON(item))
		if err != nil {
			return err
		}
		lead := ",\n  "
		if n == 0 {
			lead = fmt.Sprintf("{\"schema_version\": %d, %q: [\n  ", SchemaVersion, l.Name)
		}
		_, err = fmt.Fprintf(p.out, "%s%s", lead, text)
		return err
	}
	end = func(n int) error {
		tail := "\n]}\n"
		if n == 0 {
			tail = fmt.Sprintf("{\"schema_version\": %d, %q: []}\n", SchemaVersion, l.Name)
		}
		_, err := io.WriteString(p.out, tail)
		return err
	}
	return each, end
}

// encode returns the JSON object of v with schema_version as its first field.
func (p *Printer) encode(v any) ([]byte, error) {
	text, err := p.choose(v)
	if err != nil {
		return nil, err
	}
	head := fmt.Appendf(nil, `{"schema_version":%d`, SchemaVersion)
	if !bytes.Equal(text, []byte("{}")) {
		head = append(head, ',')
	}
	return append(head, text[1:]...), nil
}

// choose returns the JSON object of v with the fields of --json, or with all of them by default.
func (p *Printer) choose(v any) ([]byte, error) {
	text, err := marshal(v)
	if err != nil || len(p.fields) == 0 {
		return text, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	chosen := []byte("{")
	for i, field := range p.fields {
		if i > 0 {
			chosen = append(chosen, ',')
		}
		value, ok := all[field]
		if !ok {
			value = json.RawMessage("null")
		}
		chosen = fmt.Appendf(chosen, "%q:%s", field, value)
	}
	return append(chosen, '}'), nil
}

// marshal works like json.Marshal but does not escape HTML, because Message-IDs contain < and >.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
