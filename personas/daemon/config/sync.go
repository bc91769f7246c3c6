package config

import (
	"errors"
	"fmt"
	"slices"

	"banger/personas/daemon/filesync"
)

// syncKey names the files that every VM gets.
const syncKey = "file_sync"

// sync takes all of [[file_sync]]. Each entry is told by its index, from 0.
func (p *parser) sync(value any) {
	list, ok := tables(value)
	switch {
	case !ok:
		p.fail(p.lines[syncKey], syncKey, errors.New("want tables that begin with [[file_sync]]"))
		return
	case len(list) > filesync.MaxEntries:
		p.fail(p.lines[syncKey], syncKey, fmt.Errorf("%d entries: want at most %d", len(list), filesync.MaxEntries))
		return
	}
	places := make(map[string]int) // in the guest
	for i, table := range list {
		shown := fmt.Sprintf("%s[%d]", syncKey, i)
		e, ok := p.entry(shown, table)
		if !ok {
			continue
		}
		if other, taken := places[e.Guest]; taken {
			p.fail(p.line(shown, "guest"), shown, fmt.Errorf("guest %q is that of %s[%d] too", e.Guest, syncKey, other))
		}
		places[e.Guest] = i
		p.config.Sync = append(p.config.Sync, e)
	}
}

// tables is value as tables, however they were written.
func tables(value any) ([]map[string]any, bool) {
	switch v := value.(type) {
	case []map[string]any:
		return v, true
	case []any:
		var list []map[string]any
		for _, one := range v {
			table, ok := one.(map[string]any)
			if !ok {
				return nil, false
			}
			list = append(list, table)
		}
		return list, true
	}
	return nil, false
}

// entry reads one table, which errors call shown.
func (p *parser) entry(shown string, table map[string]any) (e filesync.Entry, ok bool) {
	known := []string{"host", "guest", "mode"}
	before := len(p.wrong)
	for name, value := range table {
		if !slices.Contains(known, name) {
			p.unknown(p.line(shown, name), shown+"."+name, name, known)
		} else if _, ok := value.(string); !ok {
			hint := ""
			if name == "mode" {
				hint = ` of octal digits, such as "0600"`
			}
			p.fail(p.line(shown, name), shown+"."+name, errors.New("want a string"+hint))
		}
	}
	if len(p.wrong) > before {
		return e, false
	}
	text := func(name string) string { s, _ := table[name].(string); return s }
	e, err := filesync.Parse(text("host"), text("guest"), text("mode"))
	var bad *filesync.FieldError
	switch {
	case errors.As(err, &bad):
		p.fail(p.line(shown, bad.Field), shown+"."+bad.Field, bad.Err)
	case err != nil:
		p.fail(p.lines[shown], shown, err)
	}
	return e, err == nil
}

// line is where a key of an entry stands, or else the entry.
func (p *parser) line(shown, name string) int {
	for _, key := range []string{shown + "." + name, shown, syncKey} {
		if line := p.lines[key]; line > 0 {
			return line
		}
	}
	return 0
}
