package smoke_test

import (
	"context"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"banger/testdata/lab/talk"
)

// straced tells that in namespaces every scenario's helper is to be under strace, from its
// first moments to its end.
var straced = os.Getenv("BANGER_SMOKE_STRACE") != ""

// watchHelper attaches strace to each helper that systemd starts, once it is that: what
// systemd does on the way there is not the helper's.
const watchHelper = `mkdir /run/lab/straces
while :; do
	pid=$(systemctl show -P MainPID banger-helper 2>/dev/null)
	if [ "${pid:-0}" != 0 ] && [ ! -e /run/lab/straces/$pid ] && [ "$(cat /proc/$pid/comm)" = banger-helper ]; then
		touch /run/lab/straces/$pid
		strace -f -qq -o /run/lab/straces/$pid -e trace=execve,execveat,mount,move_mount,fsmount,open_tree,openat,openat2,open -p $pid &
	fi
	sleep 0.05
done`

// lookAtHelper prints how many calls were seen, and then those that no helper makes: it
// starts no program, mounts nothing, and opens nothing in a home or in the owner's state.
const lookAtHelper = `cat /run/lab/straces/* 2>/dev/null | wc -l
cat /run/lab/straces/* 2>/dev/null | grep -E 'exec|mount|open_tree|"/(home|root|var/lib/banger)/' | head`

// seen counts the calls that were seen on all hosts.
var seen atomic.Int64

// watch begins to watch the helper of a scenario that does not do so itself.
func (s *play) watch(text string) error {
	if s.watched = straced && !strings.Contains(text, "strace"); !s.watched {
		return nil
	}
	_, err := s.host.Start(talk.Command{User: "root", Args: []string{"sh", "-c", watchHelper}}, talk.Streams{})
	return err
}

// judge fails the test if the helper did what it must not.
func (s *play) judge(t testing.TB) {
	if !s.watched {
		return
	}
	r, err := s.host.Run(context.Background(), talk.Command{User: "root", Args: []string{"sh", "-c", lookAtHelper}})
	if err != nil {
		t.Errorf("look at the helper's calls: %v", err)
		return
	}
	count, calls, _ := strings.Cut(strings.TrimSpace(r.Stdout), "\n")
	n, _ := strconv.ParseInt(count, 10, 64)
	seen.Add(n)
	t.Logf("the helper was seen to make %d calls", n)
	if calls != "" {
		t.Errorf("the helper did:\n%s", calls)
	}
}
