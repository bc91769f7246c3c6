package link

import (
	"testing"
	"testing/synctest"
)

func TestWindow(t *testing.T) {
	w := newWindow(10)
	if n := w.take(25); n != 10 {
		t.Fatalf("take 25 of 10: got %d", n)
	}
	if !w.give(4) {
		t.Fatal("what was taken may come back")
	}
	if w.give(7) {
		t.Fatal("more came back than was taken")
	}
	if n := w.take(3); n != 3 {
		t.Fatalf("take 3 of 4: got %d", n)
	}
}

func TestWindowCloseWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(1)
		w.take(1)
		got := make(chan int)
		go func() { got <- w.take(1) }()
		synctest.Wait()
		w.close()
		if n := <-got; n != 0 {
			t.Fatalf("take of a closed window: got %d", n)
		}
	})
}
