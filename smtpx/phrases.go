package smtpx

import (
	"slices"
	"strings"
	"unicode"
)

// says reports whether the text holds a phrase of a rule. See [Rule] for the forms of phrases.
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

// holdsOne reports whether the text holds a phrase of a list in the generic profile.
func (s *signature) holdsOne(list string) bool {
	held, known := s.lists[list]
	if !known {
		held = slices.ContainsFunc(vocabulary[list], s.holds)
		s.lists[list] = held
	}
	return held
}

// holds reports whether the text holds one phrase without "@" and "+". The "ip" of "#ip" begins no word.
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

// wordByte reports whether c is a letter or a digit of ASCII.
func wordByte(c byte) bool {
	return c < 0x80 && (unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c)))
}
