package completion

import (
	"fmt"
	"strings"
)

const fishHead = `# fish completion of %[1]s. Load it with: %[1]s completion fish | source

function __%[1]s_at --description 'Succeeds if the words so far name exactly this command'
    set -l at
    for word in (commandline -opc)[2..]
        # What follows "--" is a command in the guest.
        test "$word" = -- && return 1
        switch "$at/$word"
`

const fishTail = `        end
    end
    test "$at" = "$argv[1]"
end

function __%[1]s_names
    set -l words (commandline -opc)
    $words[1] __complete $argv[1] 2>/dev/null
end

complete -c %[1]s -f
`

// fish writes one complete statement for everything that may be typed.
func fish(name string, commands []command) string {
	var b strings.Builder
	fmt.Fprintf(&b, fishHead, name)
	for _, c := range commands {
		for _, s := range c.subs {
			fmt.Fprintf(&b, "            case %s\n                set at %s\n", quote(c.path+"/"+s.text), quote(strings.TrimSpace(c.path+" "+s.text)))
		}
	}
	fmt.Fprintf(&b, fishTail, name)
	for _, c := range commands {
		at := fmt.Sprintf("complete -c %s -n %s", name, quote(fmt.Sprintf(`__%s_at "%s"`, name, c.path)))
		for _, s := range c.subs {
			fmt.Fprintf(&b, "%s -a %s -d %s\n", at, s.text, fishQuote(s.help))
		}
		for _, f := range c.flags {
			fmt.Fprintf(&b, "%s%s\n", at, fishFlag(name, f))
		}
		if c.args != nil {
			fmt.Fprintf(&b, "%s -a %s\n", at, quote(strings.Join(c.args, " ")))
		}
		if c.names != "" {
			fmt.Fprintf(&b, "%s -a '(__%s_names %s)'\n", at, name, c.names)
		}
		if c.files {
			fmt.Fprintf(&b, "%s -F\n", at)
		}
	}
	return b.String()
}

func fishFlag(name string, f flag) string {
	out := " -l " + f.long
	if f.short != "" {
		out += " -s " + f.short
	}
	switch {
	case f.values != nil:
		out += " -x -a " + quote(strings.Join(f.values, " "))
	case f.names != "":
		out += fmt.Sprintf(" -x -a '(__%s_names %s)'", name, f.names)
	case f.dir:
		out += " -x -a '(__fish_complete_directories)'"
	case f.value:
		out += " -x"
	}
	return out + " -d " + fishQuote(f.help)
}

// fishQuote quotes s for fish, where a backslash quotes within quotes.
func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
