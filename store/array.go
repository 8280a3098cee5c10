package store

import "strings"

// array is the text of an array of PostgreSQL, as every driver takes it. The zero value is empty.
type array struct{ b strings.Builder }

// escaped escapes what ends a quoted element.
var escaped = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// add appends an element.
func (a *array) add(element string) {
	a.next()
	a.b.WriteByte('"')
	_, _ = escaped.WriteString(&a.b, element)
	a.b.WriteByte('"')
}

// addOptional appends an element, or NULL for nil.
func (a *array) addOptional(element *string) {
	if element != nil {
		a.add(*element)
		return
	}
	a.next()
	a.b.WriteString("NULL")
}

func (a *array) next() {
	if a.b.Len() == 0 {
		a.b.WriteByte('{')
	} else {
		a.b.WriteByte(',')
	}
}

// literal returns the text.
func (a *array) literal() string {
	if a.b.Len() == 0 {
		return "{}"
	}
	return a.b.String() + "}"
}
