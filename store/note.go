package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// noteFile is the name of what Note has written, beside the record.
const noteFile = "note.json"

// note is a record that was not waited for.
type note[T any] struct {
	// After is the SHA-256 of the record's file that it follows, in hex; of nothing
	// where there was none. A note that follows another record is worth nothing.
	After  string `json:"after"`
	Record T      `json:"record"`
}

// Note writes a record as Save does, but does not wait until it would survive a power
// cut, which may take back all notes since the last Save: it is for what nobody is
// told, or what ends with the host anyway. The end of the writer takes back nothing.
// What was saved last is not touched by it, whatever happens.
func (r *Records[T]) Note(id string, rec T) error {
	saved, err := readFile(filepath.Join(r.Path(id), recordFile), maxRecord)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("note record %s: %w", id, err)
	}
	data, err := encode(note[T]{After: sum(saved), Record: rec})
	if err != nil {
		return fmt.Errorf("note record %s: %w", id, err)
	}
	if err := os.Mkdir(r.Path(id), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("note record %s: %w", id, err)
	}
	return replace(filepath.Join(r.Path(id), noteFile), data, 0o600, nil)
}

// Saved reports whether there was a Save, and not only notes.
func (r *Records[T]) Saved(id string) bool {
	_, err := os.Lstat(filepath.Join(r.Path(id), recordFile))
	return !errors.Is(err, fs.ErrNotExist)
}

// noted returns the record that was noted after the one that was saved as these bytes.
// A note that a power cut has torn is none.
func (r *Records[T]) noted(id string, saved []byte) (rec T, ok bool, err error) {
	data, err := readFile(filepath.Join(r.Path(id), noteFile), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return rec, false, nil
	}
	if err != nil {
		return rec, false, err
	}
	var n note[T]
	if json.Unmarshal(data, &n) != nil || n.After != sum(saved) {
		return rec, false, nil
	}
	return n.Record, true, nil
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}
