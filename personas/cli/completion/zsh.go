package completion

import (
	"fmt"
	"strings"
)

const zshHead = `#compdef %[1]s
# zsh completion of %[1]s. Put it as _%[1]s into a directory of $fpath, or load it
# with: source <(%[1]s completion zsh)

_%[1]s_names() {
    local -a names
    names=(${(f)"$("${words[1]}" __complete "$1" 2>/dev/null)"})
    compadd -a names
}

_%[1]s() {
    local cur=$words[CURRENT] flag=$words[CURRENT-1] at= i
    local -a offer
    for ((i = 2; i < CURRENT; i++)); do
        # What follows "--" is a command in the guest.
        if [[ $words[i] == -- ]]; then
            _files
            return
        fi
        case "$at/$words[i]" in
`

// zsh writes one function around three cases.
func zsh(name string, commands []command) string {
	var b strings.Builder
	fmt.Fprintf(&b, zshHead, name)
	for _, c := range commands {
		for _, s := range c.subs {
			fmt.Fprintf(&b, "        %s) at=%s ;;\n", quote(c.path+"/"+s.text), quote(strings.TrimSpace(c.path+" "+s.text)))
		}
	}
	b.WriteString("        esac\n    done\n    if [[ $cur == --*=* ]]; then\n")
	b.WriteString("        flag=${cur%%=*}\n        compset -P '*='\n        cur=${cur#*=}\n    fi\n    case \"$at/$flag\" in\n")
	for _, c := range commands {
		for _, f := range c.flags {
			if f.value {
				fmt.Fprintf(&b, "    %s) %s; return ;;\n", bashCase(c.path, f), zshValue(name, f))
			}
		}
	}
	b.WriteString("    esac\n    if [[ $cur == -* ]]; then\n        case \"$at\" in\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "        %s) offer=(%s) ;;\n", quote(c.path), zshFlags(c))
	}
	b.WriteString("        esac\n        _describe -o flag offer\n        return\n    fi\n    case \"$at\" in\n")
	for _, c := range commands {
		if do := zshArgument(name, c); do != "" {
			fmt.Fprintf(&b, "    %s) %s ;;\n", quote(c.path), do)
		}
	}
	fmt.Fprintf(&b, "    esac\n}\n\nif [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n    _%[1]s \"$@\"\nelse\n    compdef _%[1]s %[1]s\nfi\n", name)
	return b.String()
}

func zshFlags(c command) string {
	var out []string
	for _, f := range c.flags {
		for _, s := range f.spellings() {
			out = append(out, zshDescribed(s, f.help))
		}
	}
	return strings.Join(out, " ")
}

// zshDescribed is one entry for _describe, where a colon ends the word.
func zshDescribed(text, help string) string {
	return quote(strings.ReplaceAll(text, ":", `\:`) + ":" + help)
}

func zshValue(name string, f flag) string {
	switch {
	case f.values != nil:
		return "compadd " + strings.Join(f.values, " ")
	case f.names != "":
		return fmt.Sprintf("_%s_names %s", name, f.names)
	case f.dir:
		return "_files -/"
	}
	return "_message value"
}

func zshArgument(name string, c command) string {
	var do []string
	switch {
	case len(c.subs) > 0:
		var words []string
		for _, s := range c.subs {
			words = append(words, zshDescribed(s.text, s.help))
		}
		do = append(do, fmt.Sprintf("offer=(%s); _describe command offer", strings.Join(words, " ")))
	case c.args != nil:
		do = append(do, "compadd "+strings.Join(c.args, " "))
	}
	if c.names != "" {
		do = append(do, fmt.Sprintf("_%s_names %s", name, c.names))
	}
	if c.files {
		do = append(do, "_files")
	}
	return strings.Join(do, "; ")
}
