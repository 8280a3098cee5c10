package output

import (
	"strings"

	"github.com/mattn/go-runewidth"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
)

// pipeWidth is the width to which sentences are wrapped where there is no terminal, in columns.
const pipeWidth = 100

// width returns the columns that a line may fill.
func (r *Rows) width() int {
	if r.streams.OutTTY {
		return r.streams.Width
	}
	return pipeWidth
}

// Line writes a line that belongs to no table. A terminal cuts what is too long. In TSV it does nothing, as do [Rows.Ends],
// [Rows.Wrapped] and [Rows.Marked].
func (r *Rows) Line(c Cell) {
	if r.format == TSV {
		return
	}
	r.flush()
	text := r.shown(c)
	if r.streams.OutTTY {
		text = runewidth.Truncate(text, r.width(), "…")
	}
	r.write(iostreams.Paint(text, c.Color, r.streams.OutColor) + "\n")
}

// Ends writes a line with a text at each end.
func (r *Rows) Ends(left, right string) {
	space := r.width() - runewidth.StringWidth(left) - runewidth.StringWidth(right)
	r.Line(Cell{Text: left + strings.Repeat(" ", max(2, space)) + right, Color: iostreams.Dim})
}

// Wrapped writes a text in as many lines as it needs, each behind the indent.
func (r *Rows) Wrapped(indent, text string) {
	for _, line := range wrap(Clean(text), r.width()-runewidth.StringWidth(indent)) {
		r.Line(Text(indent + line))
	}
}

// Marked writes a sentence behind a mark in colour.
func (r *Rows) Marked(mark string, c iostreams.Color, text string) {
	if r.format == TSV {
		return
	}
	r.flush()
	indent := strings.Repeat(" ", runewidth.StringWidth(mark))
	for i, line := range wrap(Clean(text), r.width()-runewidth.StringWidth(mark)) {
		lead := indent
		if i == 0 {
			lead = iostreams.Paint(mark, c, r.streams.OutColor)
		}
		r.write(lead + iostreams.Paint(line, iostreams.Bold, r.streams.OutColor) + "\n")
	}
}

// wrap divides a text between its words. A word that is wider than a line is cut.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case runewidth.StringWidth(line)+1+runewidth.StringWidth(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
		if runewidth.StringWidth(line) > width {
			line = runewidth.Truncate(line, max(1, width), "…")
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// cutMiddle shortens a text to a width and keeps both ends, most of it the second, where an address has its domain.
func cutMiddle(text string, width int) string {
	if runewidth.StringWidth(text) <= width {
		return text
	}
	head := runewidth.Truncate(text, max(1, width/3), "")
	return head + "…" + runewidth.TruncateLeft(text, runewidth.StringWidth(text)-(width-runewidth.StringWidth(head)-1), "")
}
