// Package letter makes the bytes of a message (RFC 5322, RFC 2045) from checked values, and reads messages that came complete.
//
// Functions named Parse check a value and return it in the form that is written. [Content.Render] and [Raw.Render] then write
// it. The same input always gives the same bytes. Errors are plain: they begin with a verb, for the caller to put the name of
// the field before them.
//
// The package keeps no state and is safe for concurrent use.
package letter
