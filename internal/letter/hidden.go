package letter

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/html/atom"
)

// look says how the style attribute of an element changes what is seen of it.
type look struct {
	hidden bool // with everything in it
	// These are inherited, and elements within may undo them.
	size, color, visibility seen
}

// seen is a property that can make text invisible.
type seen byte

const (
	inherited seen = iota
	seenAgain
	unseen
)

// seenIf returns the value of a property that an element gives.
func seenIf(visible bool) seen {
	if visible {
		return seenAgain
	}
	return unseen
}

// parseLook reads the style attribute of an element (CSS Style Attributes). The last declaration of a property counts, and
// !important before it.
func parseLook(tag atom.Atom, style string) (l look) {
	properties := declarations(style)
	get := func(name string) string { return properties[name].value }
	l.hidden = get("display") == "none" || get("mso-hide") == "all" || isZero(get("opacity")) || isClipped(tag, get)
	if size, font := properties["font-size"], properties["font"]; size.overrides(font) {
		l.size = seenIf(!isZero(size.value))
	} else if font.value != "" {
		l.size = seenIf(!hasZeroSize(font.value))
	}
	if color := get("color"); color != "" && color != "inherit" {
		l.color = seenIf(!transparent.MatchString(color))
	}
	if visibility := get("visibility"); visibility != "" && visibility != "inherit" {
		l.visibility = seenIf(visibility == "visible")
	}
	return l
}

// isClipped says whether an element with these properties has a size of zero and shows nothing beyond it.
func isClipped(tag atom.Atom, get func(name string) string) bool {
	if display := get("display"); (tag == atom.Td || tag == atom.Th) && (display == "" || display == "table-cell") {
		return false // a cell grows with its content
	}
	clipped := false
	for _, name := range [...]string{"overflow", "overflow-x", "overflow-y"} {
		clipped = clipped || get(name) == "hidden" || get(name) == "clip"
	}
	if !clipped {
		return false
	}
	paddings := strings.Fields(get("padding")) // top, right, bottom, left; what is missing is like the opposite side
	high := hasSize(get("min-height")) || hasSize(get("padding-top")) || hasSize(get("padding-bottom"))
	wide := hasSize(get("min-width")) || hasSize(get("padding-left")) || hasSize(get("padding-right"))
	for i, padding := range paddings {
		high = high || i%2 == 0 && hasSize(padding)
		wide = wide || (i%2 == 1 || len(paddings) == 1) && hasSize(padding)
	}
	return !high && (isZero(get("height")) || isZero(get("max-height"))) ||
		!wide && (isZero(get("width")) || isZero(get("max-width")))
}

// hasSize says whether a length is more than zero.
func hasSize(value string) bool {
	switch value {
	case "", "auto", "none", "inherit", "initial", "unset", "revert":
		return false
	default:
		return !isZero(value)
	}
}

// transparent matches colours that are not seen. Alpha is the fourth component, or what stands behind a slash.
var transparent = regexp.MustCompile(`^(?:transparent|#[0-9a-f]{3}0|#[0-9a-f]{6}00|` +
	`(?:rgb|hsl)a?\((?:(?:[^,/]*,){3}|[^,/]*/)\s*(?:0+|0*\.0+)%?\s*\))$`)

// declaration is the value of a property.
type declaration struct {
	value     string
	important bool
	place     int // among all declarations, from 1
}

// overrides says whether a declaration counts before another one of the same property.
func (d declaration) overrides(other declaration) bool {
	if d.important != other.important {
		return d.important
	}
	return d.place > other.place
}

var cssComment = regexp.MustCompile(`(?s)/\*.*?(?:\*/|$)`)

// declarations separates the declarations of a style attribute, by name in lower case.
func declarations(style string) map[string]declaration {
	all := make(map[string]declaration)
	place := 0
	for part := range strings.SplitSeq(cssComment.ReplaceAllString(strings.ToLower(style), " "), ";") {
		name, value, found := strings.Cut(part, ":")
		if !found {
			continue
		}
		value, mark, _ := strings.Cut(value, "!")
		place++
		name, d := strings.TrimSpace(name), declaration{strings.TrimSpace(value), strings.TrimSpace(mark) == "important", place}
		if d.value != "" && d.overrides(all[name]) {
			all[name] = d
		}
	}
	return all
}

// isZero says whether a number or a length is zero.
func isZero(value string) bool {
	if value == "" {
		return false
	}
	n, err := strconv.ParseFloat(strings.TrimRight(value, "abcdefghijklmnopqrstuvwxyz%"), 64)
	return err == nil && n == 0
}

// hasZeroSize says whether a font has the size zero. Its weight has no unit and is no zero.
func hasZeroSize(font string) bool {
	for word := range strings.FieldsSeq(font) {
		size, _, _ := strings.Cut(word, "/")
		if isZero(size) {
			return true
		}
	}
	return false
}

// maxLooks is the number of open elements that are kept. Deeper ones look like the last.
const maxLooks = 100

// looks are the open elements that change what is seen, and those within them that have the name of one.
type looks struct {
	open  []openLook
	level int // open tables and lists
	deep  int // open elements that are not kept
}

// openLook is an open element.
type openLook struct {
	tag    atom.Atom
	level  int // open tables and lists, with itself
	hidden bool
	// Text is seen, by each property.
	size, color, visible bool
}

// top is the innermost element that counts.
func (l *looks) top() openLook {
	if len(l.open) == 0 {
		return openLook{size: true, color: true, visible: true}
	}
	return l.open[len(l.open)-1]
}

// hidden says whether nothing is seen of what comes next.
func (l *looks) hidden() bool { return l.top().hidden }

// textHidden says whether text that comes next is not seen.
func (l *looks) textHidden() bool {
	top := l.top()
	return top.hidden || !top.size || !top.color || !top.visible
}

// start takes in the start tag of an element that has content.
func (l *looks) start(tag atom.Atom, own look) {
	for len(l.open) > 0 && l.top().level == l.level && endsBefore(l.top().tag, tag, l.level > 0) {
		l.open = l.open[:len(l.open)-1]
	}
	if isNesting(tag) {
		l.level++
	}
	switch {
	case own == look{} && l.find(tag) < 0:
	case len(l.open) == maxLooks:
		l.deep++
	default:
		e := l.top()
		e.tag, e.level = tag, l.level
		e.hidden = e.hidden || own.hidden
		e.size = own.size == seenAgain || own.size == inherited && e.size
		e.color = own.color == seenAgain || own.color == inherited && e.color
		e.visible = own.visibility == seenAgain || own.visibility == inherited && e.visible
		l.open = append(l.open, e)
	}
}

// end takes in an end tag. It ends what is open within the element, too.
func (l *looks) end(tag atom.Atom) {
	if isNesting(tag) {
		l.level = max(l.level-1, 0)
		for len(l.open) > 0 && l.top().level > l.level && l.top().tag != tag {
			l.open = l.open[:len(l.open)-1]
		}
	}
	if l.level > 0 && (tag == atom.Td || tag == atom.Th || tag == atom.Li) {
		for len(l.open) > 0 && l.top().level == l.level && l.top().tag != tag && !isFrame(l.top().tag) {
			l.open = l.open[:len(l.open)-1]
		}
	}
	i := l.find(tag)
	switch {
	case i < 0:
	case l.deep > 0:
		l.deep--
	default:
		l.open = l.open[:i]
	}
}

// find returns the place of the innermost element with a name, or -1.
func (l *looks) find(tag atom.Atom) int {
	for i, e := range slices.Backward(l.open) {
		if e.tag == tag {
			return i
		}
	}
	return -1
}

// isNesting says whether elements with optional end tags can stand in others of their name only within such an element.
func isNesting(tag atom.Atom) bool {
	switch tag {
	case atom.Table, atom.Ul, atom.Ol, atom.Dl:
		return true
	default:
		return false
	}
}

// isFrame says whether an element holds the cells or items of a table or list.
func isFrame(tag atom.Atom) bool {
	return isNesting(tag) || tag == atom.Tbody || tag == atom.Thead || tag == atom.Tfoot || tag == atom.Tr
}

// endsBefore says whether an open element ends where another begins. The end tags of some may be left out (HTML, 13.1.2.4), and
// nothing goes on from one cell or item into the next. within says that a table or list is open.
func endsBefore(open, next atom.Atom, within bool) bool {
	switch next {
	case atom.Td, atom.Th, atom.Li, atom.Dt, atom.Dd:
		return within && !isFrame(open)
	case atom.Tr, atom.Tbody, atom.Tfoot:
		return within && (!isFrame(open) || open == atom.Tr)
	default:
		return open == atom.P && margin(next) == 2
	}
}
