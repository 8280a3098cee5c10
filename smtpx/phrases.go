package smtpx

import (
	"slices"
	"strings"
	"unicode"
)

// says tells whether the words hold a phrase. A phrase begins where a word begins, and ends anywhere; with "$" at its end it ends
// where a word ends. "@name" stands for any phrase of that list in the generic profile. "a + b" asks for both.
func (s *signature) says(phrase string) bool {
	for part := range strings.SplitSeq(phrase, " + ") {
		if list, ok := strings.CutPrefix(part, "@"); ok {
			if !s.holdsOne(list) {
				return false
			}
		} else if !s.holds(part) {
			return false
		}
	}
	return true
}

// holdsOne tells whether the words hold a phrase of a list of the generic profile.
func (s *signature) holdsOne(list string) bool {
	held, known := s.lists[list]
	if !known {
		held = slices.ContainsFunc(vocabulary[list], s.holds)
		s.lists[list] = held
	}
	return held
}

// holds tells whether the words hold one phrase without "@" and "+". What stands behind "#" is no word but the sign of an address.
func (s *signature) holds(phrase string) bool {
	phrase, whole := strings.CutSuffix(phrase, "$")
	for at := 0; ; at++ {
		i := strings.Index(s.text[at:], phrase)
		if i < 0 {
			return false
		}
		at += i
		end := at + len(phrase)
		begins := at == 0 || !wordByte(phrase[0]) || (!wordByte(s.text[at-1]) && s.text[at-1] != '#')
		if begins && (!whole || end == len(s.text) || !wordByte(s.text[end])) {
			return true
		}
	}
}

func wordByte(c byte) bool {
	return c < 0x80 && (unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c)))
}
