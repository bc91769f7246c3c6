package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MissingError says that the binary of a VMM was not found or cannot be executed.
type MissingError struct {
	// Name is the binary's name, such as "firecracker".
	Name string
	// Path is the configured path, empty if PATH was searched.
	Path string
	// Err is the cause.
	Err error
}

// Error tells what was looked for.
func (e *MissingError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("find %s in PATH: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("use %s at %q: %v", e.Name, e.Path, e.Err)
}

// Hint tells the user what to do about it.
func (e *MissingError) Hint() string {
	if e.Path != "" {
		return fmt.Sprintf(`"sudo banger system install --%s FILE" puts one there`, e.Name)
	}
	return fmt.Sprintf("install %s where root's PATH finds it", e.Name)
}

// Unwrap returns the cause; errors.Is(err, fs.ErrNotExist) holds for a missing binary.
func (e *MissingError) Unwrap() error { return e.Err }

// Resolve returns the absolute path of the VMM binary name with all symbolic links
// resolved: of configured if that is not empty, else of the first match in PATH.
// The error is a *MissingError.
func Resolve(name, configured string) (string, error) {
	path := configured
	if path == "" {
		found, err := exec.LookPath(name)
		if err != nil {
			var e *exec.Error
			if errors.As(err, &e) {
				err = e.Err
			}
			if errors.Is(err, exec.ErrNotFound) {
				err = fs.ErrNotExist
			}
			return "", &MissingError{Name: name, Err: err}
		}
		path = found
	}
	if !filepath.IsAbs(path) {
		return "", &MissingError{name, path, errors.New("not an absolute path")}
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", &MissingError{name, configured, cause(err)}
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &MissingError{name, path, err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", &MissingError{name, path, errors.New("not a regular file")}
	}
	if st.Mode&0o111 == 0 {
		return "", &MissingError{name, path, errors.New("not executable")}
	}
	return path, nil
}

// cause strips the path that an os error repeats.
func cause(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}
