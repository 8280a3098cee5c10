package command

import (
	"errors"
	"fmt"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/output"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/store"
)

// keysVariable is the environment variable that holds keys, in the form of keyring.Parse.
const keysVariable = "OUTBOX_KEYS"

// hintKeys tells the user how to give the keys.
const hintKeys = "give the keys with --key-file or " + keysVariable + "; `outboxctl help encryption` says more"

// keyRing reads the keys from --key-file, or else from the environment. It returns nil if neither is given. Errors never
// quote the keys.
func (a *app) keyRing() (*keyring.Ring, error) {
	var (
		keys *keyring.Ring
		err  error
	)
	switch text := a.io.Getenv(keysVariable); {
	case a.keyFile != "":
		keys, err = keyring.ReadFile(a.keyFile)
	case text != "":
		if keys, err = keyring.Parse(text); err != nil {
			err = fmt.Errorf("%s: %w", keysVariable, err)
		}
	default:
		return nil, nil //nolint:nilnil // a nil key ring is one without keys
	}
	if err != nil {
		return nil, &exit.Error{Err: err, Hint: "write one key on each line as NAME:SECRET, the current one first", Code: exit.Usage}
	}
	return keys, nil
}

// openBody decrypts a stored body if it is encrypted.
func (a *app) openBody(id outbox.ID, stored []byte) ([]byte, error) {
	if !keyring.IsSealed(stored) {
		return stored, nil
	}
	keys, err := a.keyRing()
	if err != nil {
		return nil, err
	}
	body, err := keys.OpenBody(string(id), stored)
	if err != nil {
		return nil, &exit.Error{Err: fmt.Errorf("message %s: %w", id, err), Hint: hintKeys}
	}
	return body, nil
}

// revealer returns a function that decrypts the subject of a delivery. It leaves a subject unchanged if its key is missing.
func (a *app) revealer() (func(*store.Delivery), error) {
	keys, err := a.keyRing()
	if err != nil {
		return nil, err
	}
	return func(d *store.Delivery) {
		if keys == nil || d.KeyID == "" {
			return
		}
		if subject, err := keys.OpenSubject(string(d.ID), d.Subject); err == nil {
			d.Subject = subject
		}
	}, nil
}

// revealMessage decrypts the subject and the metadata of a message.
func (a *app) revealMessage(m *store.Message) error {
	reveal, err := a.revealer()
	if err != nil || m.KeyID == "" {
		return err
	}
	for i := range m.Deliveries {
		reveal(&m.Deliveries[i])
	}
	keys, err := a.keyRing()
	if err != nil || keys == nil {
		return err
	}
	subject, subjectErr := keys.OpenSubject(string(m.ID), m.Subject)
	metadata, metadataErr := keys.OpenMetadata(string(m.ID), m.Metadata)
	if subjectErr == nil {
		m.Subject = subject
	}
	if metadataErr == nil {
		m.Metadata = metadata
	}
	if err := errors.Join(subjectErr, metadataErr); err != nil {
		a.notef("%v", err)
	}
	return nil
}

// sealed lists the encrypted fields by their JSON names.
func sealed(keyID, subject string, metadata map[string]string) (fields []string) {
	if keyID == "" {
		return nil
	}
	if keyring.IsSealedSubject(subject) {
		fields = append(fields, "subject")
	}
	if keyring.IsSealedMetadata(metadata) {
		fields = append(fields, "metadata")
	}
	return fields
}

// readable returns a subject, or nothing if it is encrypted.
func readable(keyID, subject string) string {
	if sealed(keyID, subject, nil) != nil {
		return ""
	}
	return subject
}

// subjectCell shows a subject, or a note that it is encrypted.
func subjectCell(keyID, subject string) output.Cell {
	if sealed(keyID, subject, nil) != nil {
		return output.Cell{Text: encryptedWith(keyID), Color: iostreams.Dim}
	}
	return output.Text(subject)
}

func encryptedWith(keyID string) string { return "encrypted with key " + keyID }
