package letter

import (
	"unicode"
	"unicode/utf8"
)

// visible returns a word without the characters that show nothing. Preview lines are padded with them. Characters that change how
// their neighbours look stay where they have such neighbours: joiners between letters or emoji, variation selectors and tags
// behind a character, and direction marks beside text. before is the character before the word, 0 for none. A joiner that is left
// out only because the word ends with it is returned, else 0.
func visible(word []byte, before rune) (out []byte, joiner rune) {
	for i := 0; i < len(word); {
		r, n := utf8.DecodeRune(word[i:])
		joiner = 0
		if keepsPlace(r, before, word[i+n:]) {
			before = r
			if out != nil {
				out = append(out, word[i:i+n]...)
			}
		} else {
			if out == nil { // nothing was left out yet
				out = append(make([]byte, 0, len(word)), word[:i]...)
			}
			if isJoiner(r) && before != 0 && !isBlank(before) {
				joiner = r
			}
		}
		i += n
	}
	if out == nil {
		out = word
	}
	return out, joiner
}

// keepsPlace says whether a character stays in a word, given the one before it that stays, 0 for none, and the text after it.
func keepsPlace(r, before rune, after []byte) bool {
	switch {
	case !isIgnorable(r):
		return true
	case unicode.Is(unicode.Variation_Selector, r), r >= 0xe0020 && r <= 0xe007f:
		return before != 0
	case isJoiner(r):
		// A joiner at the end of a word counts behind a mark only, as in the chillus of Malayalam.
		return before != 0 && (unicode.Is(unicode.M, before) && !unicode.Is(unicode.Variation_Selector, before) || beginsVisibly(after))
	case unicode.Is(unicode.Bidi_Control, r):
		return before != 0 || beginsVisibly(after)
	default:
		return false
	}
}

// isJoiner says whether a character changes how the two beside it look: joiners, the fillers of Hangul, and the vowel separator of
// Mongolian.
func isJoiner(r rune) bool {
	return unicode.Is(unicode.Join_Control, r) || r == '\u115f' || r == '\u1160' || r == '\u180e'
}

// beginsVisibly says whether text begins with a character that shows something.
func beginsVisibly(s []byte) bool {
	r, n := utf8.DecodeRune(s)
	return n > 0 && !isIgnorable(r) && !isBlank(r)
}

// isIgnorable says whether a character shows nothing by itself: Unicode's Default_Ignorable_Code_Point (UAX #44).
func isIgnorable(r rune) bool {
	switch {
	case r < 0xad:
		return false
	case unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r), unicode.Is(unicode.Variation_Selector, r):
		return true
	case unicode.Is(unicode.Cf, r):
		return !unicode.Is(unicode.Prepended_Concatenation_Mark, r) && (r < 0xfff9 || r > 0xfffb) && (r < 0x13430 || r > 0x1343f)
	default:
		return false
	}
}

// isBlank says whether a character is white space, or the blank of Braille.
func isBlank(r rune) bool { return unicode.IsSpace(r) || r == '\u2800' }
