package output

import (
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/mattn/go-runewidth"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
)

// Column is a column of a table.
type Column struct {
	// Title is the header.
	Title string
	// Shrink allows the column to become narrower, down to minShrunk, if the terminal is too narrow for the row.
	Shrink bool
	// Wanted is the width below which columns with Drop go rather than this one shrinks. Defaults to minShrunk.
	Wanted int
	// Drop lets a narrow terminal leave the column out, the highest number first. 0 keeps it.
	Drop int
	// Middle cuts long values in the middle.
	Middle bool
	// Right aligns the column to the right, for numbers.
	Right bool
}

// Cell is a value in a row.
type Cell struct {
	// Text is the value.
	Text string
	// Short replaces Text on a terminal, for example by a relative time or the beginning of an id. Defaults to Text.
	Short string
	// Color highlights the value. Defaults to no colour.
	Color iostreams.Color
}

// Text returns a plain cell.
func Text(s string) Cell { return Cell{Text: s} }

const (
	// minShrunk is the smallest width, in columns of the terminal, that shrinking leaves to a column.
	minShrunk = 12
	// measured is the number of rows that determine the widths of the columns.
	measured = 1000
	gap      = "  "
)

// Rows writes rows as a table or as TSV. After the first error it writes nothing more. [Printer.Object] and [List.Print]
// return that error.
type Rows struct {
	out     io.Writer
	streams *iostreams.Streams
	format  Format
	headed  bool // write the row of Head
	columns []Column
	rows    [][]Cell
	widths  []int // once measured
	dropped []bool
	err     error
}

func (p *Printer) rows(columns ...Column) *Rows {
	return &Rows{out: p.out, streams: p.streams, format: p.format, headed: p.header, columns: columns}
}

// Add adds a row.
func (r *Rows) Add(cells ...Cell) {
	switch {
	case r.format == TSV:
		r.tsv(cells)
	case r.widths != nil:
		r.line(cells)
	default:
		r.rows = append(r.rows, cells)
		if len(r.rows) == measured {
			r.flush()
		}
	}
}

// Head adds the names of the columns as the first row of TSV, if --header asks for them. Other formats have no such row.
func (r *Rows) Head(names ...string) {
	if r.format == TSV && r.headed {
		r.write(strings.Join(names, "\t") + "\n")
	}
}

// Pair adds a row of a name and a value. A table leaves out a row with an empty value; TSV keeps it.
func (r *Rows) Pair(name string, value Cell) {
	if value.Text != "" || r.format == TSV {
		r.Add(Cell{Text: name, Color: iostreams.Dim}, value)
	}
}

// Section ends the current table and begins another under a heading, which may be empty. In TSV it does nothing.
func (r *Rows) Section(heading string, columns ...Column) {
	if r.format == TSV {
		return
	}
	r.flush()
	r.widths, r.columns = nil, columns
	if heading != "" {
		r.write("\n" + iostreams.Paint(heading, iostreams.Bold, r.streams.OutColor) + "\n")
	}
}

func (r *Rows) tsv(cells []Cell) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		texts[i] = Clean(c.Text)
	}
	r.write(strings.Join(texts, "\t") + "\n")
}

// flush measures and writes the rows that are held back.
func (r *Rows) flush() {
	if len(r.rows) == 0 {
		return
	}
	r.measure()
	if len(r.columns) > 0 {
		r.header()
	}
	for _, cells := range r.rows {
		r.line(cells)
	}
	r.rows = nil
}

func (r *Rows) write(text string) {
	if r.err == nil {
		_, r.err = io.WriteString(r.out, text)
	}
}

// measure fixes the widths of the columns.
func (r *Rows) measure() {
	for _, cells := range r.rows {
		r.widths = append(r.widths, make([]int, max(0, len(cells)-len(r.widths)))...)
		for i, c := range cells {
			r.widths[i] = max(r.widths[i], runewidth.StringWidth(r.shown(c)))
		}
	}
	for i, c := range r.columns[:min(len(r.columns), len(r.widths))] {
		r.widths[i] = max(r.widths[i], runewidth.StringWidth(c.Title))
	}
	r.dropped = make([]bool, len(r.widths))
	if r.streams.OutTTY {
		r.drop()
		r.shrink(minShrunk)
		r.shrink(minShrunk / 2)
	}
}

// drop leaves columns out until the others have the width that they want.
func (r *Rows) drop() {
	for {
		total, worst := -len(gap), -1
		for i, w := range r.widths {
			if r.dropped[i] {
				continue
			}
			if i < len(r.columns) {
				if c := r.columns[i]; c.Shrink {
					w = min(w, max(c.Wanted, minShrunk))
				}
				if d := r.columns[i].Drop; d > 0 && (worst < 0 || d > r.columns[worst].Drop) {
					worst = i
				}
			}
			total += w + len(gap)
		}
		if total <= r.streams.Width || worst < 0 {
			return
		}
		r.dropped[worst] = true
	}
}

// shrink narrows the widest column with Shrink, one step at a time, until the row fits or all have the least width.
func (r *Rows) shrink(least int) {
	total := -len(gap)
	for i, w := range r.widths {
		if !r.dropped[i] {
			total += w + len(gap)
		}
	}
	for ; total > r.streams.Width; total-- {
		widest := -1
		for i := range r.widths {
			if i < len(r.columns) && !r.dropped[i] && r.columns[i].Shrink && r.widths[i] > least && (widest < 0 || r.widths[i] > r.widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		r.widths[widest]--
	}
}

func (r *Rows) header() {
	cells := make([]Cell, len(r.columns))
	for i, c := range r.columns {
		cells[i] = Cell{Text: c.Title, Color: iostreams.Dim}
	}
	r.line(cells)
}

// shown returns the text that a table shows for a cell.
func (r *Rows) shown(c Cell) string {
	if c.Short != "" && r.streams.OutTTY {
		return Clean(c.Short)
	}
	return Clean(c.Text)
}

func (r *Rows) line(cells []Cell) {
	var b strings.Builder
	for i, c := range cells {
		if i < len(r.dropped) && r.dropped[i] {
			continue
		}
		text := r.shown(c)
		width := r.widths[min(i, len(r.widths)-1)]
		if r.streams.OutTTY && i < len(r.columns) && r.columns[i].Shrink {
			if r.columns[i].Middle {
				text = cutMiddle(text, width)
			}
			text = runewidth.Truncate(text, width, "…")
		}
		pad := strings.Repeat(" ", max(0, width-runewidth.StringWidth(text)))
		if b.Len() > 0 {
			b.WriteString(gap)
		}
		painted := iostreams.Paint(text, c.Color, r.streams.OutColor)
		switch {
		case i < len(r.columns) && r.columns[i].Right:
			b.WriteString(pad + painted)
		default:
			b.WriteString(painted + pad)
		}
	}
	r.write(strings.TrimRight(b.String(), " ") + "\n")
}

// bidi lists the characters that change the direction of text. A subject could use them to disguise its row.
var bidi = []rune{'\u061c', '\u200e', '\u200f', '\u202a', '\u202b', '\u202c', '\u202d', '\u202e', '\u2066', '\u2067', '\u2068', '\u2069'}

// Clean makes text from a mail or a relay safe to show on one line of a terminal. It turns line breaks and tabs into
// blanks, and replaces other control characters, and those in bidi, by U+FFFD.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || slices.Contains(bidi, r):
			return '�'
		default:
			return r
		}
	}, s)
}

// Int returns a cell that holds a number.
func Int[N ~int | ~int64](n N) Cell { return Cell{Text: strconv.FormatInt(int64(n), 10)} }
