package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"banger/ops"
)

// fields are the arguments of a request by their names.
type fields map[string]json.RawMessage

// sample is what a well-formed request to an operation holds.
type sample struct {
	ops.Declared
	args     fields
	kinds    map[string]reflect.Kind
	optional map[string]bool
}

// wellFormed finds arguments that the operation's own check admits. handle and digest
// are what it uses where one is wanted.
func wellFormed(op ops.Declared, handle, digest string) (sample, error) {
	s := sample{op, make(fields), make(map[string]reflect.Kind), make(map[string]bool)}
	v := reflect.New(reflect.TypeOf(op.Zero())).Elem()
	words := []string{handle, digest, ops.QEMU, ops.NetInternet}
	var fill func(i int) bool
	fill = func(i int) bool {
		if i == v.NumField() {
			return v.Interface().(ops.Args).Validate() == nil
		}
		field := v.Field(i)
		switch field.Kind() {
		case reflect.String:
			return slices.ContainsFunc(words, func(w string) bool { field.SetString(w); return fill(i + 1) })
		case reflect.Int:
			field.SetInt(64)
		}
		return fill(i + 1)
	}
	if !fill(0) {
		return s, fmt.Errorf("no well-formed arguments are known for %s: teach wellFormed a word that it takes", op.Declaration().Name)
	}
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		value, err := json.Marshal(v.Field(i).Interface())
		if err != nil {
			return s, err
		}
		s.args[name], s.kinds[name], s.optional[name] = value, v.Field(i).Kind(), options != ""
	}
	return s, nil
}

// message is a request to the operation with these arguments.
func (s sample) message(args fields) []byte {
	return s.envelope(fields{"args": raw(args)})
}

// envelope is a request in which some things are other than they ought to be.
func (s sample) envelope(other fields) []byte {
	e := fields{"v": raw(ops.Version), "id": raw("attack"), "op": raw(s.Declaration().Name), "args": raw(s.args)}
	maps.Copy(e, other)
	for name, value := range e {
		if value == nil {
			delete(e, name)
		}
	}
	return join(e)
}

// join writes an object down, also where its values are no JSON.
func join(f fields) []byte {
	var b bytes.Buffer
	for i, name := range slices.Sorted(maps.Keys(f)) {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", name, f[name])
	}
	return fmt.Appendf(nil, "{%s}", b.Bytes())
}

func raw(v any) json.RawMessage {
	if f, ok := v.(fields); ok {
		return join(f)
	}
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // words and numbers can be written down
	}
	return data
}

// with returns f with another value.
func (f fields) with(name string, value json.RawMessage) fields {
	g := maps.Clone(f)
	g[name] = value
	return g
}

// names are what an owner would like to name, and no operation takes.
func names(handle string) []string {
	return []string{
		"eth0", "uplink", "banger0", "br0", "lo", "all", "default", "host", "bridge", "%d",
		"/etc/shadow", "/dev/vda", "/dev/mem", "/proc/1/root", "/home/mallory", "../../../../etc/shadow", "..", ".", "/",
		"1", strconv.Itoa(os.Getppid()), "-1", "0", "root", "0:0", "0 8 linear 8:0 0",
		"", " ", "%s%n", "\x00", "a\nop=VMStop", "\x1b[2J", "-", "--help", "\u2025/etc", strings.Repeat("a", 3000),
		strings.ToUpper(strings.Repeat("a", len(handle))), handle + "0", handle[1:], handle + "\x00", " " + handle, "../../" + handle[6:],
		strings.Repeat("\uff10", 32), strings.Repeat("g", 32), strings.Repeat("g", 64),
	}
}

// lies are values that are of the wrong kind for a field.
func lies(kind reflect.Kind) []string {
	all := []string{`{}`, `[]`, `["eth0"]`, `{"a":{"b":1}}`, `1.5`, `-1`, `1e400`, `99999999999999999999`, `2147483648`, `NaN`, `0x10`, `'a'`, ``}
	switch kind {
	case reflect.String:
		return append(all, `null`, `true`, `1`)
	case reflect.Bool:
		return append(all, `"true"`, `1`)
	}
	return append(all, `null`, `true`, `"1"`)
}

// malformed returns requests that can be right for nobody.
func (s sample) malformed(handle string) [][]byte {
	good := s.envelope(nil)
	var list [][]byte
	add := func(m []byte) { list = append(list, m) }

	for i := range len(good) - 1 {
		add(good[:i+1])
	}
	for _, size := range []int{ops.MaxRequest + 1, 64 << 10, 200_000, 1 << 20} {
		add(append(bytes.Repeat([]byte{' '}, size-len(good)), good...))
	}
	for _, tail := range []string{"x", "\x00", "{}", string(good), "]", ","} {
		add(append(slices.Clone(good), tail...))
	}
	add(append([]byte("\xef\xbb\xbf"), good...))
	add(bytes.Repeat(good, 2))
	add(append(append([]byte{'['}, good...), ']'))
	add([]byte(strings.Repeat(`{"args":`, 500)))
	add([]byte(strings.Repeat(`[`, 4000)))

	for _, v := range []string{`2`, `-1`, `"1"`, `1.5`, `{}`, `1e9`, `true`} {
		add(s.envelope(fields{"v": json.RawMessage(v)}))
	}
	for _, id := range []string{"", "-", "a b", "a\nop=VMStop", "\x00", "\x1b[31m", "\u00e9", strings.Repeat("a", 65), strings.Repeat("a", 3900)} {
		add(s.envelope(fields{"id": raw(id)}))
	}
	name := s.Declaration().Name
	for _, op := range []string{strings.ToLower(name), name + "\x00", name + " ", "../" + name, "", "*", "VMExec", "/bin/sh", "eth0"} {
		add(s.envelope(fields{"op": raw(op)}))
	}
	for _, key := range []string{"id", "op", "args"} {
		add(s.envelope(fields{key: nil}))
		add(s.envelope(fields{key: json.RawMessage("[]")}))
		add(s.envelope(fields{key: json.RawMessage("1")}))
		add([]byte(strings.Replace(string(good), `"`+key+`":`, `"`+strings.ToUpper(key)+`":`, 1)))
		add([]byte(strings.Replace(string(good), `{`, `{"`+key+`":"x",`, 1)))
	}
	for _, key := range []string{"path", "name", "file", "pid", "uid", "gid", "address", "mac", "tap", "bridge", "device", "table", "argv", "env", "user"} {
		for _, value := range []string{`"/etc/shadow"`, `"eth0"`, `"/dev/vda"`, `1`, `0`, `null`} {
			add(s.message(s.args.with(key, json.RawMessage(value))))
			add(s.envelope(fields{key: json.RawMessage(value)}))
		}
	}
	for field, kind := range s.kinds {
		for _, lie := range lies(kind) {
			add(s.message(s.args.with(field, json.RawMessage(lie))))
		}
		if kind == reflect.String {
			for _, name := range names(handle) {
				add(s.message(s.args.with(field, raw(name))))
			}
		}
		less := maps.Clone(s.args)
		delete(less, field)
		if !s.optional[field] {
			add(s.message(less))
		}
		less[strings.ToUpper(field)] = s.args[field]
		add(s.message(less))
		twice := join(s.args)
		add(s.envelope(fields{"args": fmt.Appendf(nil, `{"%s":%s,%s`, field, s.args[field], twice[1:])}))
	}
	return list
}

// talk sends what is malformed, and the wrong numbers of descriptors, about a VM that
// runs: whatever is believed would hurt it.
func (a *attacker) talk() error {
	handle, err := a.victim()
	if err != nil {
		return err
	}
	w := &wire{socket: a.socket}
	defer w.close()
	null, err := os.Open("/dev/null")
	if err != nil {
		return err
	}
	defer null.Close()
	for _, op := range ops.All() {
		d := op.Declaration()
		s, err := wellFormed(op, handle, digest)
		if err != nil {
			return err
		}
		for _, m := range s.malformed(handle) {
			// As many descriptors as are right, so that nothing is wrong but what is said.
			if err := a.refused(w, d.Name, m, slices.Repeat([]int{int(null.Fd())}, d.MinFiles)); err != nil {
				return err
			}
		}
		for n := range 254 {
			if n >= d.MinFiles && n <= d.MaxFiles || n > ops.MaxFilesOut && n < 252 {
				continue
			}
			if err := a.refused(w, d.Name, s.envelope(nil), slices.Repeat([]int{int(null.Fd())}, n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// refused says what can only be refused, for what it says.
func (a *attacker) refused(w *wire, op string, message []byte, fds []int) error {
	got, err := w.say(message, fds...)
	if err != nil {
		return err
	}
	closeAll(got.files)
	a.tally(op, got.code)
	switch got.code {
	case string(ops.Invalid), string(ops.Unsupported), hungUp, unsent:
	default:
		a.breach("%s: %.300q with %d descriptors: %s: %s", op, message, len(fds), got.code, got.text)
	}
	return nil
}
