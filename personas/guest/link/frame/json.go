package frame

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Raw is a string of any bytes. JSON strings carry UTF-8 only, so a Raw travels
// as base64: arguments and file names arrive as they were sent.
type Raw string

// MarshalJSON implements json.Marshaler.
func (r Raw) MarshalJSON() ([]byte, error) { return json.Marshal([]byte(r)) }

// UnmarshalJSON implements json.Unmarshaler.
func (r *Raw) UnmarshalJSON(text []byte) error {
	var b []byte
	if err := json.Unmarshal(text, &b); err != nil {
		return err
	}
	*r = Raw(b)
	return nil
}

// Raws converts strings for the wire.
func Raws(list []string) []Raw {
	out := make([]Raw, len(list))
	for i, s := range list {
		out[i] = Raw(s)
	}
	return out
}

// Strings converts a list from the wire.
func Strings(list []Raw) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return out
}

// JSON sends v as the payload of one frame.
func (w *Writer) JSON(t Type, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	return w.Write(t, payload)
}

// DecodeStrict decodes a request: a field that this side does not know is an
// error, because a request that is half understood must not be half done.
func DecodeStrict(payload []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	return decode(d, v)
}

// Decode decodes an answer. Fields that this side does not know are skipped, so
// that a guest outlives an upgrade of the host.
func Decode(payload []byte, v any) error {
	return decode(json.NewDecoder(bytes.NewReader(payload)), v)
}

func decode(d *json.Decoder, v any) error {
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("decode frame: %w: %v", ErrProtocol, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("decode frame: %w: more than one document", ErrProtocol)
	}
	return nil
}

// A Failure is the payload of Failed, and the error that the other side sees.
type Failure struct {
	// Message is the cause in words. Of a guest it is untrusted text: whoever
	// prints it quotes it.
	Message string `json:"message"`
}

// Error returns the message with everything that is not printable escaped.
func (f *Failure) Error() string { return Printable(f.Message) }

// Fail sends err as the last frame.
func (w *Writer) Fail(err error) error {
	message := err.Error()
	const most = 16 << 10
	if len(message) > most {
		message = message[:most]
	}
	return w.JSON(Failed, Failure{Message: message})
}

// ReadFailure returns the error that a frame of type Failed carries.
func ReadFailure(payload []byte) error {
	f := new(Failure)
	if err := Decode(payload, f); err != nil {
		return err
	}
	return f
}

// Unexpected is the error for a frame that does not belong where it came.
func Unexpected(t Type) error {
	return fmt.Errorf("%w: unexpected frame %#x", ErrProtocol, byte(t))
}

// Expect reads one frame of type t and decodes its JSON document into v. A
// frame of type Failed becomes the error that it carries.
func (r *Reader) Expect(t Type, v any) error {
	got, payload, err := r.Next()
	switch {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case got == Failed:
		return ReadFailure(payload)
	case got != t:
		return Unexpected(got)
	}
	return Decode(payload, v)
}
