// Package letter makes the bytes of a message (RFC 5322, RFC 2045) from checked values, and reads messages that came complete.
//
// Functions named Parse check a value and return it in its written form. [Content.Render] and [Raw.Render] write it. The same input
// always gives the same bytes. Most errors begin with a verb: the caller puts the name of the field before them.
//
// The package keeps no state and is safe for concurrent use.
package letter
