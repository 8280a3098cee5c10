package letter

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"strings"
	"unicode/utf8"
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
	base, err := a.setType(in.ContentType)
	if err != nil {
		return a, fmt.Errorf("content type %s %w", Quote(in.ContentType), err)
	}
	// A message may not be encoded (RFC 2046 §5.2.1).
	if base == "message/rfc822" {
		a.data, err = sevenBitMessage(in.Data)
		if err != nil {
			return a, fmt.Errorf("%w: attach it as application/octet-stream", err)
		}
		a.encoding = sevenBit
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

// setType sets the media type as it is written and returns it without its parameters.
func (a *File) setType(s string) (base string, err error) {
	if s == "" {
		base = typeByName(a.name)
		a.mediaType = base
		if strings.HasPrefix(base, "text/") && utf8.Valid(a.data) {
			a.mediaType += "; charset=utf-8"
		}
		return base, nil
	}
	if err := CheckLine(s, maxContentType); err != nil {
		return "", err
	}
	if !IsASCII(s) {
		return "", errors.New("is not ASCII")
	}
	base, params, err := mime.ParseMediaType(s)
	if err != nil {
		return "", err
	}
	if kind, sub, ok := strings.Cut(base, "/"); !ok || sub == "" || kind == "multipart" {
		return "", errors.New("is not the type of a file")
	}
	// The name is written from Name, and only a multipart has a boundary.
	delete(params, "name")
	delete(params, "boundary")
	a.mediaType = mime.FormatMediaType(base, params)
	if a.mediaType == "" {
		return "", errors.New("cannot be written")
	}
	return base, nil
}

// typeByName returns the media type for the ending of a file name. The table is the package's own: that of the system
// would make the message depend on the machine.
func typeByName(name string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		if t, ok := typesByEnding[strings.ToLower(name[i+1:])]; ok {
			return t
		}
	}
	return "application/octet-stream"
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

// sevenBitMessage returns a message with CRLF line breaks when it can travel without an encoding.
func sevenBitMessage(data []byte) ([]byte, error) {
	data = toCRLF(string(data))
	for line := range bytes.SplitSeq(data, []byte("\r\n")) {
		if len(line) > MaxLine {
			return nil, fmt.Errorf("a message with lines of more than %d bytes cannot be sent as message/rfc822", MaxLine)
		}
		for _, c := range line {
			if c == 0 || c >= 0x80 {
				return nil, errors.New("a message that is not ASCII cannot be sent as message/rfc822")
			}
		}
	}
	return data, nil
}

// fileEntities makes the entities of a list.
func fileEntities(list []File) []entity {
	entities := make([]entity, len(list))
	for i := range list {
		a := &list[i]
		entities[i] = entity{mediaType: a.mediaType, encoding: a.encoding, data: a.data, file: a}
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
