// Package store keeps banger's records: one JSON file each, written durably by
// the one process that holds the store's lock.
//
// A store is a folder:
//
//	lock                    held for the life of the writer
//	vms/<id>/record.json    beside the VM's own disk
//	vms/<id>/note.json      what became of it since, which a power cut may take back
//	images/<name>/record.json
//	kernels/<name>/record.json
//	tmp/                    what was not finished; emptied when the store is opened
package store

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Errors of a store.
var (
	// ErrLocked means that another process is the store's writer.
	ErrLocked = errors.New("store is in use by another process")
	// ErrCorrupt means that a record cannot be read as what it should be.
	ErrCorrupt = errors.New("record is corrupt")
)

// maxRecord bounds a record's file, in bytes: what is larger is not written, and
// not read.
const maxRecord = 1 << 20

// Damage is a record that cannot be read. Nothing of it was touched.
type Damage struct {
	ID   string
	Path string // of its folder
	Err  error  // wraps ErrCorrupt
}

// Store is an open store. Close gives the lock back.
type Store struct {
	Dir  string
	lock *os.File
}

// Open makes dir where it is missing, locks it and removes what an earlier
// writer left unfinished. It returns ErrLocked if another process has it.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := &Store{Dir: dir, lock: lock}
	if err := s.cleanUp(); err != nil {
		s.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

func (s *Store) cleanUp() error {
	if err := os.RemoveAll(s.TempDir()); err != nil {
		return err
	}
	for _, d := range []string{"tmp", "vms", "images", "kernels"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, d), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// Reader returns the store in dir for [Records.Look] alone. It is not locked, and
// needs no closing.
func Reader(dir string) *Store { return &Store{Dir: dir} }

// Close gives the lock back.
func (s *Store) Close() error { return s.lock.Close() }

// TempDir is a folder on the store's file system for what is not published yet.
func (s *Store) TempDir() string { return filepath.Join(s.Dir, "tmp") }

// Records is one kind of record, T, each in a folder of its own.
type Records[T any] struct {
	dir string
	tmp string
	// saved tells that records are made by Save and Note, whose folder is there first:
	// without a record it is what a crash left. Those of Publish have theirs from the
	// beginning, and whoever misses one has put half of a backup back.
	saved bool
}

// Kind returns the records of the kind that is kept in the folder named kind.
func Kind[T any](s *Store, kind string) *Records[T] {
	return &Records[T]{dir: filepath.Join(s.Dir, kind), tmp: s.TempDir(), saved: kind == "vms"}
}

// Path returns the folder of the record with this id. What belongs to the
// record lies beside it. The folder exists once the record is saved.
func (r *Records[T]) Path(id string) string { return filepath.Join(r.dir, id) }

// Save writes a record durably, and with it the names of all that lies beside it. id
// must be a plain file name.
func (r *Records[T]) Save(id string, rec T) error {
	data, err := encode(rec)
	if err != nil {
		return fmt.Errorf("save record %s: %w", id, err)
	}
	dir := r.Path(id)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("save record %s: %w", id, err)
	}
	known := r.Saved(id)
	if err := replace(filepath.Join(dir, recordFile), data, 0o600, (*os.File).Sync); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, noteFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("save record %s: %w", id, err)
	}
	if err := SyncDir(dir); err != nil || known {
		return err
	}
	return SyncDir(r.dir) // the folder is as new as the record
}

// recordFile is the record's name in its folder.
const recordFile = "record.json"

// encode refuses what Load would not read again.
func encode(rec any) ([]byte, error) {
	data, err := json.MarshalIndent(rec, "", "\t")
	if err != nil {
		return nil, err
	}
	if len(data) >= maxRecord {
		return nil, fmt.Errorf("%d bytes, want less than %d", len(data), maxRecord)
	}
	return append(data, '\n'), nil
}

// Publish moves a finished folder, made below [Store.TempDir], to where the
// record with this id lives, and writes the record into it first: both appear
// at once. It returns fs.ErrExist if there is such a record.
func (r *Records[T]) Publish(id, from string, rec T) error {
	data, err := encode(rec)
	if err != nil {
		return fmt.Errorf("publish record %s: %w", id, err)
	}
	if err := WriteFile(filepath.Join(from, recordFile), data, 0o600); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, r.Path(id), unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("publish record %s: %w", id, err)
	}
	return SyncDir(r.dir)
}

// Delete removes a record and everything beside it. The record vanishes at
// once; a record that is gone is success. It needs no space: deleting is what a
// full disk needs.
func (r *Records[T]) Delete(id string) error {
	clear, err := r.Bury(id)
	if err != nil {
		return err
	}
	return clear()
}

// Bury is the first half of Delete: the record is gone for good. What lay beside it
// takes up room until clear is called, or the store is opened the next time.
func (r *Records[T]) Bury(id string) (clear func() error, err error) {
	var random [8]byte
	rand.Read(random[:]) // never fails
	grave := filepath.Join(r.tmp, "deleted-"+hex.EncodeToString(random[:]))
	if err := os.Rename(r.Path(id), grave); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("delete record %s: %w", id, err)
	}
	if err := SyncDir(r.dir); err != nil {
		return nil, err
	}
	return func() error {
		if err := os.RemoveAll(grave); err != nil {
			return fmt.Errorf("delete record %s: %w", id, err)
		}
		return nil
	}, nil
}

// Load reads all records as they were saved or noted last, and tells those that cannot
// be read. What a crash left of a Save is removed: the folder of a VM without a record, a
// file that was not renamed.
func (r *Records[T]) Load() (map[string]T, []Damage, error) {
	recs, damaged, bare, err := r.readAll()
	if err != nil {
		return nil, nil, fmt.Errorf("load records: %w", err)
	}
	for _, id := range bare {
		if err := r.Delete(id); err != nil {
			return nil, nil, fmt.Errorf("load records: %w", err)
		}
	}
	for id := range recs {
		if err := removeUnfinished(r.Path(id)); err != nil {
			return nil, nil, fmt.Errorf("load records: %w", err)
		}
	}
	return recs, damaged, nil
}

// Look is Load for who is not the writer: it changes nothing.
func (r *Records[T]) Look() (map[string]T, []Damage, error) {
	recs, damaged, _, err := r.readAll()
	if err != nil {
		return nil, nil, fmt.Errorf("look at records: %w", err)
	}
	return recs, damaged, nil
}

// readAll returns all records, those that cannot be read, and the folders that
// have none and may be removed.
func (r *Records[T]) readAll() (recs map[string]T, damaged []Damage, bare []string, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, nil, nil, err
	}
	recs = make(map[string]T)
	for _, e := range entries {
		id := e.Name()
		rec, err := r.load(id)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			bare = append(bare, id)
		case err != nil:
			damaged = append(damaged, Damage{ID: id, Path: r.Path(id), Err: err})
		default:
			recs[id] = rec
		}
	}
	return recs, damaged, bare, nil
}

// load returns fs.ErrNotExist only for what may be removed, or is gone meanwhile.
func (r *Records[T]) load(id string) (rec T, err error) {
	rec, err = r.read(id)
	if err == nil || errors.Is(err, fs.ErrNotExist) && (r.saved || r.gone(id)) {
		return rec, err
	}
	return rec, fmt.Errorf("load record %s: %w: %v", r.Path(id), ErrCorrupt, err)
}

func (r *Records[T]) gone(id string) bool {
	_, err := os.Lstat(r.Path(id))
	return errors.Is(err, fs.ErrNotExist)
}

func (r *Records[T]) read(id string) (rec T, err error) {
	data, missing := readFile(filepath.Join(r.Path(id), recordFile), maxRecord)
	if missing != nil && !errors.Is(missing, fs.ErrNotExist) {
		return rec, missing
	}
	if missing == nil {
		if err := json.Unmarshal(data, &rec); err != nil {
			return rec, err
		}
	}
	if noted, ok, err := r.noted(id, data); ok || err != nil {
		return noted, err
	}
	return rec, missing
}
