package frame

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	sent := []struct {
		kind    Type
		payload string
	}{
		{Stdout, "some output"}, {StdinEOF, ""}, {Stdin, strings.Repeat("x", MaxData)}, {Signal, "\x02"},
		{Request, strings.Repeat("y", MaxMessage)}, {Stderr, ""},
	}
	for _, f := range sent {
		if err := w.Write(f.kind, []byte(f.payload[:len(f.payload)/2]), []byte(f.payload[len(f.payload)/2:])); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(&b)
	for _, f := range sent {
		kind, payload, err := r.Next()
		if err != nil || kind != f.kind || string(payload) != f.payload {
			t.Fatalf("got %#x with %d bytes, %v", kind, len(payload), err)
		}
	}
	if _, _, err := r.Next(); err != io.EOF {
		t.Fatalf("after the last frame: %v", err)
	}
}

func TestReaderRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		in   string
		want error
	}{
		"4 GiB of output":        {"\x21\xff\xff\xff\xff", ErrProtocol},
		"one byte too much":      {"\x21\x00\x01\x00\x01", ErrProtocol},
		"a large signal":         {"\x14\x00\x00\x00\x02", ErrProtocol},
		"unknown type":           {"\x99\x00\x00\x00\x00", ErrProtocol},
		"end in the header":      {"\x21\x00\x00", io.ErrUnexpectedEOF},
		"end after the type":     {"\x21", io.ErrUnexpectedEOF},
		"end in the payload":     {"\x21\x00\x00\x00\x05abc", io.ErrUnexpectedEOF},
		"end before payload":     {"\x21\x00\x00\x00\x05", io.ErrUnexpectedEOF},
		"nothing is only an end": {"", io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := NewReader(strings.NewReader(test.in)).Next()
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestWriterRefuses(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	if err := w.Write(Stdout, make([]byte, MaxData), []byte{1}); err == nil {
		t.Error("a payload that nobody would read was sent")
	}
	if err := w.Write(Type(0x99)); err == nil {
		t.Error("a type that nobody knows was sent")
	}
	if b.Len() != 0 {
		t.Errorf("%d bytes were sent", b.Len())
	}
}

func TestDecode(t *testing.T) {
	type doc struct{ A int }
	for in, strict := range map[string]bool{
		`{"A":1}`: true, `{"A":1,"B":2}`: false, `{"A":1}{"A":2}`: false, `{"A":"x"}`: false, ``: false, `{"A":1} `: true,
	} {
		err := DecodeStrict([]byte(in), new(doc))
		if (err == nil) != strict {
			t.Errorf("strict %q: %v", in, err)
		}
		if err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("strict %q: %v is no protocol violation", in, err)
		}
	}
	if err := Decode([]byte(`{"A":1,"B":2}`), new(doc)); err != nil {
		t.Errorf("an answer with an unknown field: %v", err)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ü and 漢":         "plain, ü and 漢",
		"\x1b]52;c;ZXZpbA==\x07": `\x1b]52;c;ZXZpbA==\a`,
		"line\nfeed\tand \x00":   `line\nfeed\tand \x00`,
		"bad \xff\x80 UTF-8":     `bad \xff\x80 UTF-8`,
		"\u009b31m \u202e":       `\u009b31m \u202e`,
		"it's \"quoted\" \\":     "it's \"quoted\" \\",
	} {
		if got := Printable(in); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestFailureIsBoundedAndEscaped(t *testing.T) {
	var b bytes.Buffer
	if err := NewWriter(&b).Fail(errors.New(strings.Repeat("\x1b", 1<<20))); err != nil {
		t.Fatal(err)
	}
	_, payload, err := NewReader(&b).Next()
	if err != nil {
		t.Fatal(err)
	}
	got := ReadFailure(payload)
	var failure *Failure
	if !errors.As(got, &failure) || strings.ContainsRune(got.Error(), 0x1b) || len(got.Error()) > 1<<17 {
		t.Fatalf("%d bytes, %.40q", len(got.Error()), got)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("\x21\x00\x00\x00\x03abc\x12\x00\x00\x00\x00"))
	f.Add([]byte("\x10\x00\x0f\xff\xff{"))
	f.Add([]byte("\x26\x00\x00\x00\x10{\"message\":\"\x1b\"}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytes.NewReader(in))
		var again bytes.Buffer
		w := NewWriter(&again)
		for {
			kind, payload, err := r.Next()
			if err != nil {
				break
			}
			if kind == Failed {
				_ = ReadFailure(payload).Error()
			}
			if err := w.Write(kind, payload); err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
		}
		if !bytes.HasPrefix(in, again.Bytes()) {
			t.Fatal("what was read is not what was sent")
		}
	})
}
