package completion

import (
	"fmt"
	"strings"
)

const bashHead = `# bash completion of %[1]s. Load it with: source <(%[1]s completion bash)

# _%[1]s_path PATH WORD prints the path of the command that WORD names after PATH.
`

const bashTail = `
_%[1]s() {
    local cur=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD-1]} path= next i
    COMPREPLY=()
    # bash makes words of its own out of the "=" in --flag=value.
    if [[ $cur == "=" ]]; then
        cur=
    elif [[ $flag == "=" ]]; then
        flag=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        # What follows "--" is a command in the guest.
        [[ ${COMP_WORDS[i]} == -- ]] && return
        next=$(_%[1]s_path "$path" "${COMP_WORDS[i]}") && path=$next
    done
    if [[ $flag == -* ]] && _%[1]s_value "$path" "$flag"; then
        return
    fi
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$(_%[1]s_flags "$path")" -- "$cur"))
    else
        _%[1]s_argument "$path"
    fi
}

_%[1]s_names() {
    COMPREPLY+=($(compgen -W "$("${COMP_WORDS[0]}" __complete "$1" 2>/dev/null)" -- "$cur"))
}

# _%[1]s_files -f offers files, -d directories: each is one word, whatever is in it.
_%[1]s_files() {
    compopt -o filenames 2>/dev/null
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen "$1" -- "$cur")
}

complete -F _%[1]s %[1]s
`

// bash writes functions around one case each. They read cur of _banger and set
// COMPREPLY, as bash's functions do.
func bash(name string, commands []command) string {
	var b strings.Builder
	fmt.Fprintf(&b, bashHead, name)
	fmt.Fprintf(&b, "_%s_path() {\n    case \"$1/$2\" in\n", name)
	for _, c := range commands {
		for _, s := range c.subs {
			fmt.Fprintf(&b, "    %s) echo %s ;;\n", quote(c.path+"/"+s.text), quote(strings.TrimSpace(c.path+" "+s.text)))
		}
	}
	b.WriteString("    *) return 1 ;;\n    esac\n}\n\n")

	fmt.Fprintf(&b, "_%s_flags() {\n    case \"$1\" in\n", name)
	for _, c := range commands {
		fmt.Fprintf(&b, "    %s) echo %s ;;\n", quote(c.path), quote(strings.Join(c.dashed(), " ")))
	}
	b.WriteString("    esac\n}\n\n")

	fmt.Fprintf(&b, "# _%s_value PATH FLAG completes the value of FLAG, and fails if it takes none.\n", name)
	fmt.Fprintf(&b, "_%s_value() {\n    case \"$1/$2\" in\n", name)
	for _, c := range commands {
		for _, f := range c.flags {
			if f.value {
				fmt.Fprintf(&b, "    %s) %s ;;\n", bashCase(c.path, f), bashValue(name, f))
			}
		}
	}
	b.WriteString("    *) return 1 ;;\n    esac\n}\n\n")

	fmt.Fprintf(&b, "_%s_argument() {\n    case \"$1\" in\n", name)
	for _, c := range commands {
		if do := bashArgument(name, c); do != "" {
			fmt.Fprintf(&b, "    %s) %s ;;\n", quote(c.path), do)
		}
	}
	b.WriteString("    esac\n}\n")
	fmt.Fprintf(&b, bashTail, name)
	return b.String()
}

func bashCase(path string, f flag) string {
	var out []string
	for _, s := range f.spellings() {
		out = append(out, quote(path+"/"+s))
	}
	return strings.Join(out, "|")
}

func bashValue(name string, f flag) string {
	switch {
	case f.values != nil:
		return bashWords(f.values)
	case f.names != "":
		return fmt.Sprintf("_%s_names %s", name, f.names)
	case f.dir:
		return fmt.Sprintf("_%s_files -d", name)
	}
	return ":" // a value that only the user knows
}

func bashArgument(name string, c command) string {
	var do []string
	switch {
	case len(c.subs) > 0:
		words := make([]string, len(c.subs))
		for i, s := range c.subs {
			words[i] = s.text
		}
		do = append(do, bashWords(words))
	case c.args != nil:
		do = append(do, bashWords(c.args))
	}
	if c.names != "" {
		do = append(do, fmt.Sprintf("_%s_names %s", name, c.names))
	}
	if c.files {
		do = append(do, fmt.Sprintf("_%s_files -f", name))
	}
	return strings.Join(do, "; ")
}

func bashWords(words []string) string {
	return fmt.Sprintf(`COMPREPLY=($(compgen -W %s -- "$cur"))`, quote(strings.Join(words, " ")))
}
