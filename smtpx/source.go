package smtpx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// source opens a message for reading. It returns the same octets each time.
type source func() (io.ReadCloser, error)

// SendReader is [Client.Send] for a message that is too large to keep in memory. open returns a reader of the message from its
// start, and the same octets each time. It is called at least twice: to check the message before anything is sent, and to send
// it, once for each transaction. At most 128 KiB of a message are in memory at a time, and a message of at most that size is read once.
//
// If open or a reader fails, or the octets are not those that were checked, nothing of the message is accepted: the connection is
// cut in the middle of the body. Recipients of earlier transactions stay accepted. The error is an [*Error] of [ClassRecycle]
// that wraps the cause. SendReader closes every reader, and open is not called any more when it returns.
func (c *Client) SendReader(ctx context.Context, env Envelope, open func() (io.ReadCloser, error)) (Result, error) {
	return c.sendBody(ctx, env, func() (body, error) { return checkSource(open) })
}

// errSource marks the error of a source, which says nothing about the message.
var errSource = errors.New("the message cannot be read")

// errChanged is the cause of an error if a source does not return what was checked.
var errChanged = fmt.Errorf("%w: it is not the one that was checked", errSource)

// checkSource reads a message and checks it as checkBody does. A small one stays in memory.
func checkSource(open source) (b body, err error) {
	r, err := open()
	if err != nil {
		return body{}, fmt.Errorf("%w: %w", errSource, err)
	}
	defer func() {
		if cerr := r.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("%w: %w", errSource, cerr)
		}
	}()
	buf := make([]byte, flightBody+1)
	k, rest := newBodyCheck(), 0 // rest octets at the start of buf belong to the part before
	for {
		n, rerr := io.ReadFull(r, buf[rest:])
		part := buf[:rest+n]
		last := errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF)
		switch {
		case rerr != nil && !last:
			return body{}, fmt.Errorf("%w: %w", errSource, rerr)
		case last && k.length == 0:
			return checkBody(part)
		}
		rest = 0
		if !last {
			rest = held(part)
		}
		if err := k.add(part[:len(part)-rest], last); err != nil {
			return body{}, err
		}
		if last {
			k.source = open
			return k.body, nil
		}
		copy(buf, part[len(part)-rest:])
	}
}

// blocks returns a body in blocks for the wire, without the final dot.
type blocks struct {
	memory dotReader
	stream *sourceReader // instead of memory
}

// blocks begins to read a body. It is dot-stuffed unless plain is set. The caller closes it.
func (b *body) blocks(plain bool) (*blocks, error) {
	if b.source == nil {
		memory := b.dotReader()
		memory.plain = plain
		return &blocks{memory: memory}, nil
	}
	r, err := b.source()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSource, err)
	}
	return &blocks{stream: &sourceReader{want: b, r: r, check: newBodyCheck(), plain: plain, atStart: true, open: b.open}}, nil
}

// done reports that nothing is left to write.
func (b *blocks) done() bool {
	if b.stream != nil {
		return b.stream.done()
	}
	return b.memory.done()
}

// appendBlock appends the next part to buf until buf has about limit octets.
func (b *blocks) appendBlock(buf []byte, limit int) ([]byte, error) {
	if b.stream != nil {
		return b.stream.appendBlock(buf, limit)
	}
	return b.memory.appendBlock(buf, limit), nil
}

// close closes the reader of a source.
func (b *blocks) close() {
	if b.stream != nil {
		_ = b.stream.r.Close()
	}
}

// sourceReader reads a body from its source. It verifies that it is the one that was checked before it returns the last block.
type sourceReader struct {
	want    *body
	r       io.ReadCloser
	check   bodyCheck
	raw     []byte
	rest    int // octets at the start of raw that belong to the block before
	plain   bool
	atStart bool // the next octet begins a line
	open    bool // a CRLF has yet to be added
}

func (s *sourceReader) done() bool { return s.check.length == s.want.length && !s.open }

func (s *sourceReader) appendBlock(buf []byte, limit int) ([]byte, error) {
	if s.raw == nil {
		s.raw = make([]byte, blockSize)
	}
	left := s.want.length - s.check.length - s.rest
	n := min(left, max(4, min(len(s.raw), limit-len(buf)))-s.rest)
	if _, err := io.ReadFull(s.r, s.raw[s.rest:s.rest+n]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return buf, errChanged
		}
		return buf, fmt.Errorf("%w: %w", errSource, err)
	}
	part := s.raw[:s.rest+n]
	last := n == left
	s.rest = 0
	if !last {
		s.rest = held(part)
	}
	text := part[:len(part)-s.rest]
	if s.check.add(text, last) != nil {
		return buf, errChanged
	}
	buf = s.stuff(buf, text)
	copy(s.raw, part[len(text):])
	if !last {
		return buf, nil
	}
	if s.check.open != s.want.open || s.check.bit8 != s.want.bit8 || s.check.hdr8 != s.want.hdr8 {
		return buf, errChanged
	}
	if s.open {
		buf = append(buf, "\r\n"...)
		s.open = false
	}
	return buf, nil
}

// stuff appends text, with a dot before each line that begins with one.
func (s *sourceReader) stuff(buf, text []byte) []byte {
	if s.plain {
		return append(buf, text...)
	}
	for len(text) > 0 {
		if s.atStart && text[0] == '.' {
			buf = append(buf, '.')
		}
		end := bytes.IndexByte(text, '\n') + 1
		if s.atStart = end > 0; !s.atStart {
			end = len(text)
		}
		buf = append(buf, text[:end]...)
		text = text[end:]
	}
	return buf
}
