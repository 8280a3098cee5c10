package keyring

import "encoding/json"

// Row holds the columns of a message that may be sealed, as they are stored.
type Row struct {
	ID      string
	KeyID   string // of body_key_id, empty for NULL
	Body    []byte // nil once scrubbed
	Subject string
	// Metadata is a JSON object, empty for NULL.
	Metadata string
}

// Reseal returns the row sealed with the current key. Plain values stay plain; with plainToo a plain body is sealed, too. A
// compressed body stays compressed. If a value cannot be opened, Reseal returns the row unchanged and an [*Error].
func (r *Ring) Reseal(row Row, plainToo bool) (Row, error) {
	if r == nil {
		return row, ErrNoKey
	}
	next, sealed := row, false
	switch {
	case IsSealed(row.Body):
		plain, compressed, keyID, err := r.decrypt(row.ID, purposeBody, row.Body)
		if err != nil {
			return row, &Error{What: string(purposeBody), KeyID: keyID, Err: err}
		}
		if next.Body, err = r.encrypt(row.ID, purposeBody, plain, compressed); err != nil {
			return row, err
		}
		sealed = true
	case plainToo && row.Body != nil:
		var err error
		if next.Body, err = r.encrypt(row.ID, purposeBody, row.Body, false); err != nil {
			return row, err
		}
		sealed = true
	}
	// Without a key id, the subject and the metadata are plain, even if they look sealed.
	if IsSealedSubject(row.Subject) && (row.KeyID != "" || sealed) {
		subject := row.Subject
		if row.KeyID != "" {
			var err error
			if subject, err = r.OpenSubject(row.ID, row.Subject); err != nil {
				return row, err
			}
		}
		var err error
		if next.Subject, err = r.SealSubject(row.ID, subject); err != nil {
			return row, err
		}
		sealed = true
	}
	if row.KeyID != "" && row.Metadata != "" {
		if err := r.resealMetadata(&next, &sealed); err != nil {
			return row, err
		}
	}
	if next.KeyID = ""; sealed {
		next.KeyID = r.current
	}
	return next, nil
}

// resealMetadata reseals sealed metadata and leaves plain metadata alone.
func (r *Ring) resealMetadata(row *Row, sealed *bool) error {
	var stored map[string]string
	if err := json.Unmarshal([]byte(row.Metadata), &stored); err != nil || !IsSealedMetadata(stored) {
		return err
	}
	text, err := r.openText(row.ID, purposeMetadata, stored[MetadataMark])
	if err != nil {
		return err
	}
	object, err := r.SealMetadata(row.ID, string(text))
	if err != nil {
		return err
	}
	row.Metadata, *sealed = object, true
	return nil
}
