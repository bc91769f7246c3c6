package config

import "strings"

// maxName bounds the names that are compared, in bytes: the work grows with it.
const maxName = 64

// nearest returns the word that name was probably meant to be, or nothing.
func nearest(name string, words []string) string {
	if len(name) > maxName {
		return ""
	}
	name = strings.ToLower(name)
	best, least := "", 1+max(1, len(name)/3)
	for _, w := range words {
		if len(name) >= 3 && (strings.HasPrefix(w, name) || strings.HasPrefix(name, w)) {
			return w
		}
		if d := distance(name, w); d < least {
			best, least = w, d
		}
	}
	return best
}

// distance is how many letters have to be put in, left out, replaced or swapped
// with the next one to come from a to b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := 1
			if a[i-1] == b[j-1] {
				replace = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
