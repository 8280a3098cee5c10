package letter

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/outboxmail/outbox/internal/textfile"
)

// Limits of an attachment.
const (
	maxFileName    = 255
	maxContentType = 255
	maxContentID   = 255
	maxAttachments = 1000
)

// File is an attachment that was checked.
type File struct {
	mediaType string
	name      string
	contentID string
	encoding  encoding
	data      []byte
}

// Source is an attachment as the caller gave it.
type Source struct {
	Name, ContentType, ContentID string
	Data                         []byte
}

// ParseFiles checks the attachments and separates those that the HTML shows from the others.
func ParseFiles(list []Source, hasHTML bool) (inline, attached []File, err error) {
	if len(list) > maxAttachments {
		return nil, nil, fmt.Errorf("there are %d, more than %d", len(list), maxAttachments)
	}
	ids := make(map[string]struct{})
	for i := range list {
		a, err := parseFile(&list[i])
		if err != nil {
			return nil, nil, fmt.Errorf("attachment %d: %w", i+1, err)
		}
		if a.contentID != "" {
			if _, taken := ids[a.contentID]; taken {
				return nil, nil, fmt.Errorf("attachment %d: the content id %s is taken by another", i+1, Quote(a.contentID))
			}
			ids[a.contentID] = struct{}{}
		}
		if a.contentID != "" && hasHTML {
			inline = append(inline, a)
		} else {
			attached = append(attached, a)
		}
	}
	return inline, attached, nil
}

func parseFile(in *Source) (File, error) {
	a := File{name: in.Name, contentID: in.ContentID, data: in.Data, encoding: base64Encoding}
	if err := checkFileName(in.Name); err != nil {
		return a, fmt.Errorf("name %s %w", Quote(in.Name), err)
	}
	if in.Name == "" && in.ContentID == "" {
		return a, errors.New("has neither a name nor a content id")
	}
	if err := checkContentID(in.ContentID); err != nil {
		return a, fmt.Errorf("content id %s %w", Quote(in.ContentID), err)
	}
	base, params, err := a.parseType(in.ContentType)
	if err != nil {
		return a, fmt.Errorf("content type %s %w", Quote(in.ContentType), err)
	}
	base, params = a.enclose(base, params)
	if a.mediaType = mime.FormatMediaType(base, params); a.mediaType == "" {
		return a, fmt.Errorf("content type %s cannot be written", Quote(in.ContentType))
	}
	return a, nil
}

// checkFileName checks the name of a file: what a careless reader would use as a path is refused.
func checkFileName(s string) error {
	if err := CheckLine(s, maxFileName); err != nil {
		return err
	}
	if strings.ContainsAny(s, `/\`) || s == "." || s == ".." {
		return errors.New("is a path, not the name of a file")
	}
	return nil
}

// checkContentID checks for what can stand between the angle brackets of a Content-ID and in a cid: URL.
func checkContentID(s string) error {
	if len(s) > maxContentID {
		return fmt.Errorf("is longer than %d bytes", maxContentID)
	}
	for i := range len(s) {
		if c := s[i]; c != '.' && c != '@' && !isAtext(c) {
			return fmt.Errorf("contains %q", rune(c))
		}
	}
	if strings.Count(s, "@") > 1 {
		return errors.New("has more than one @")
	}
	return nil
}

// parseType reads the media type, or takes it from the ending of the name. Text gets the character set that its content shows.
func (a *File) parseType(s string) (base string, params map[string]string, err error) {
	if s == "" {
		base, params = typeByName(a.name), make(map[string]string)
	} else if base, params, err = parseMediaType(s); err != nil {
		return "", nil, err
	}
	if _, given := params["charset"]; !given && strings.HasPrefix(base, "text/") {
		if charset := charsetOf(a.data); charset != "" {
			params["charset"] = charset
		}
	}
	return base, params, nil
}

// parseMediaType reads the value of a Content-Type (RFC 2045 §5.1), with the comments that RFC 5322 allows in it.
func parseMediaType(s string) (base string, params map[string]string, err error) {
	if err := CheckLine(s, maxContentType); err != nil {
		return "", nil, err
	}
	if !IsASCII(s) {
		return "", nil, errors.New("is not ASCII")
	}
	base, params, err = mime.ParseMediaType(withoutComments(s))
	if err != nil {
		return "", nil, err
	}
	if _, sub, ok := strings.Cut(base, "/"); !ok || sub == "" {
		return "", nil, errors.New("is not the type of a file")
	}
	// The name is written from Name, and no file has a boundary.
	delete(params, "name")
	delete(params, "boundary")
	return base, params, nil
}

// octetStream is the type of what says nothing of its content.
const octetStream = "application/octet-stream"

// enclose settles type and encoding where the type allows few encodings: RFC 2045 §6.4 forbids quoted-printable and base64 for a
// multipart and a message. Content that cannot stand as what it is called becomes application/octet-stream, so that no content
// decides whether a message can be sent. So does every multipart: its parts would stand among those of the message.
func (a *File) enclose(base string, params map[string]string) (string, map[string]string) {
	kind, _, _ := strings.Cut(base, "/")
	var data []byte
	fits, enc := false, sevenBit
	switch {
	case base == "message/rfc822":
		data, fits = Enclose(a.data)
	case kind == "message":
		if data, fits = encloseLines(a.data); !fits && isGlobal(base) {
			return base, params
		}
	case base == "text/rfc822-headers": // RFC 6522 §4
		lines, _, err := uniformLines(a.data)
		if data, fits = lines, err == nil; !isSevenBit(lines) {
			enc = quotedPrintable
		}
	case base == "text/calendar":
		if text, err := textfile.Trim(a.data); err == nil { // programs look for BEGIN at the very beginning
			a.data = text
		}
		return base, params
	case kind != "multipart":
		return base, params
	}
	if !fits {
		return octetStream, nil
	}
	a.data, a.encoding = data, enc
	return base, params
}

// charsetOf returns the character set of text as its bytes show it, or nothing where they do not.
func charsetOf(data []byte) string {
	switch {
	case bytes.HasPrefix(data, []byte("\xff\xfe\x00\x00")), bytes.HasPrefix(data, []byte("\x00\x00\xfe\xff")):
		return "utf-32"
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return "utf-16"
	case bytes.IndexByte(data, 0) >= 0: // UTF-16 without a mark
		return ""
	case bytes.Contains(data, []byte("\x1b$")), bytes.Contains(data, []byte("\x1b(")): // ISO 2022
		return ""
	case utf8.Valid(data):
		return "utf-8"
	default:
		return ""
	}
}

// typeByName returns the media type for the ending of a file name. The table is the package's own: that of the system
// would make the message depend on the machine.
func typeByName(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		if t, ok := typesByEnding[strings.ToLower(name[i+1:])]; ok {
			return t
		}
	}
	return octetStream
}

var typesByEnding = map[string]string{
	"avif": "image/avif",
	"bmp":  "image/bmp",
	"csv":  "text/csv",
	"doc":  "application/msword",
	"docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	"eml":  "message/rfc822",
	"epub": "application/epub+zip",
	"gif":  "image/gif",
	"gz":   "application/gzip",
	"htm":  "text/html",
	"html": "text/html",
	"ics":  "text/calendar",
	"jpeg": "image/jpeg",
	"jpg":  "image/jpeg",
	"json": "application/json",
	"log":  "text/plain",
	"md":   "text/markdown",
	"mp3":  "audio/mpeg",
	"mp4":  "video/mp4",
	"odp":  "application/vnd.oasis.opendocument.presentation",
	"ods":  "application/vnd.oasis.opendocument.spreadsheet",
	"odt":  "application/vnd.oasis.opendocument.text",
	"ogg":  "audio/ogg",
	"pdf":  "application/pdf",
	"png":  "image/png",
	"ppt":  "application/vnd.ms-powerpoint",
	"pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
	"rtf":  "application/rtf",
	"svg":  "image/svg+xml",
	"tar":  "application/x-tar",
	"tif":  "image/tiff",
	"tiff": "image/tiff",
	"txt":  "text/plain",
	"vcf":  "text/vcard",
	"wav":  "audio/wav",
	"webm": "video/webm",
	"webp": "image/webp",
	"xls":  "application/vnd.ms-excel",
	"xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
	"xml":  "application/xml",
	"zip":  "application/zip",
}

// fileEntities makes the entities of a list. A message that contains a boundary of the one around it is carried as octets.
func fileEntities(list []File, mark string) []entity {
	entities := make([]entity, len(list))
	for i := range list {
		a := &list[i]
		entities[i] = entity{mediaType: a.mediaType, encoding: a.encoding, data: a.data, file: a}
		if a.encoding == sevenBit && bytes.Contains(a.data, []byte("--"+boundary(mark, ""))) {
			entities[i].mediaType, entities[i].encoding = octetStream, base64Encoding
		}
	}
	return entities
}

// typeParams writes the name as a parameter of Content-Type, where old readers look for it.
func (a *File) typeParams(b *headerBlock) {
	switch {
	case a.name == "":
	case isPlain(a.name) && len(a.name) <= maxPlainParam:
		b.param("name", a.name)
	default:
		b.encodedParam("name", a.name)
	}
}

// describe writes Content-Disposition (RFC 2183) and Content-ID.
func (a *File) describe(b *headerBlock) {
	b.begin("Content-Disposition")
	if a.contentID != "" {
		b.buf = append(b.buf, " inline"...)
	} else {
		b.buf = append(b.buf, " attachment"...)
	}
	if a.name != "" {
		b.param("filename", a.name)
	}
	b.end()
	if a.contentID != "" {
		b.raw("Content-ID", "<"+a.contentID+">")
	}
}
