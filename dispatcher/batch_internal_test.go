package dispatcher

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// However many elements fail, and wherever they are: if a call with others can succeed, only they are left in the end, and every
// other element was in exactly one call that succeeded.
func TestInPartsFindsTheElementsThatFail(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(rt, "elements")
		bad := rapid.SliceOfNDistinct(rapid.IntRange(0, n-1), 0, n-1, rapid.ID[int]).Draw(rt, "bad")
		list := make([]int, n)
		for i := range list {
			list[i] = i
		}
		done := make(map[int]int)
		calls := 0
		do := func(part []int) error {
			calls++
			if slices.ContainsFunc(part, func(i int) bool { return slices.Contains(bad, i) }) {
				return errors.New("bad")
			}
			for _, i := range part {
				done[i]++
			}
			return nil
		}
		left, worked := list, false
		for range 2000 { // a call that happens to try a bad element alone does nothing
			if left, worked, _ = inParts(list, do); worked {
				break
			}
			if len(left) != n {
				rt.Fatalf("nothing worked and %d of %d are left", len(left), n)
			}
		}
		slices.Sort(left)
		slices.Sort(bad)
		if len(bad) < n && !worked || !slices.Equal(left, bad) {
			rt.Fatalf("left %v of the bad %v, worked %v", left, bad, worked)
		}
		for i := range n {
			if want := 1; !slices.Contains(bad, i) && done[i] != want {
				rt.Fatalf("element %d took effect %d times", i, done[i])
			}
		}
	})
}

// If nothing works, a few calls are enough to see that.
func TestInPartsSparesAQueueThatIsAway(t *testing.T) {
	t.Parallel()
	calls := 0
	left, worked, err := inParts(make([]int, 500), func([]int) error {
		calls++
		return errors.New("away")
	})
	if len(left) != 500 || worked || err == nil || calls != 1+probes {
		t.Errorf("%d left, worked %v, error %v, %d calls", len(left), worked, err, calls)
	}
}
