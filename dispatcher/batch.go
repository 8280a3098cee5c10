package dispatcher

import (
	"math/rand/v2"
	"slices"
	"time"
)

// gather makes a batch of what already waits, up to limit. While the batch is smaller than expected, it also waits up to patience
// for more.
func gather[T any](first T, more <-chan T, limit int, patience time.Duration, expected func() int) []T {
	batch := []T{first}
	var timer *time.Timer
	for len(batch) < limit {
		select {
		case next, ok := <-more:
			if !ok {
				return batch
			}
			batch = append(batch, next)
			continue
		default:
		}
		if len(batch) >= expected() {
			return batch
		}
		if timer == nil {
			timer = time.NewTimer(patience)
			defer timer.Stop()
		}
		select {
		case next, ok := <-more:
			if !ok {
				return batch
			}
			batch = append(batch, next)
		case <-timer.C:
			return batch
		}
	}
	return batch
}

// addWaiting appends what already waits to a batch, up to limit.
func addWaiting[T any](batch []T, more <-chan T, limit int) []T {
	for len(batch) < limit {
		select {
		case next, ok := <-more:
			if !ok {
				return batch
			}
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// probes is how many elements inParts tries alone before it takes it that nothing works.
const probes = 3

// inParts calls do with a list. If that fails, it looks for the elements at fault, so that the others take effect. First it calls do
// with a few elements, one by one. If all of them fail, probably nothing works, and inParts returns the whole list. As soon as one
// works, inParts halves the rest again and again, and returns the elements that fail alone. err is the last error. worked says
// whether any call succeeded.
func inParts[T any](list []T, do func(part []T) error) (failed []T, worked bool, err error) {
	if len(list) == 0 {
		return nil, true, nil
	}
	if err = do(list); err == nil {
		return nil, true, nil
	}
	if len(list) == 1 {
		return list, false, err
	}
	rest := slices.Clone(list)
	for range min(probes, len(list)) {
		i := rand.IntN(len(rest)) //nolint:gosec // no secret: other elements each time
		one := rest[i : i+1 : i+1]
		if e := do(one); e != nil {
			failed, err = append(failed, one...), e
			rest = slices.Delete(rest, i, i+1)
			continue
		}
		rest = slices.Delete(rest, i, i+1)
		more, e := halves(rest, do)
		if e != nil {
			err = e
		}
		return append(failed, more...), true, err
	}
	return list, false, err
}

// halves calls do with each half of a list, and with the halves of those that fail. It returns the elements that fail alone.
func halves[T any](list []T, do func(part []T) error) (failed []T, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	parts := [][]T{list}
	if len(list) > 1 {
		parts = [][]T{list[:len(list)/2], list[len(list)/2:]}
	}
	for _, part := range parts {
		e := do(part)
		switch {
		case e == nil:
		case len(part) == 1:
			failed, err = append(failed, part[0]), e
		default:
			more, last := halves(part, do)
			if failed = append(failed, more...); last != nil {
				err = last
			}
		}
	}
	return failed, err
}
