package dispatcher

import (
	"sync"
	"time"
)

const (
	// memoryTurn is how long others leave room for a large body that waited before theirs.
	memoryTurn = 5 * time.Second
	// memoryPatience is how long a relay without any large body in memory waits for one that others hold. After that it gets one body
	// beyond the bound: a relay that hangs must not stop the others.
	memoryPatience = 30 * time.Second
)

// memory bounds the bytes of large bodies that all lanes hold together. Each lane has an equal share. A body that is larger than the
// share goes while its lane holds no other.
type memory struct {
	mu    sync.Mutex
	size  int64
	used  int64
	lanes map[*tenant]struct{}
}

// tenant is one lane's part of a [memory].
type tenant struct {
	memory  *memory
	freed   func()    // called when bytes were freed for which the lane waits
	used    int64     // bytes that the lane holds
	since   time.Time // since when it waits while it holds nothing; zero if it does not
	want    int64     // the body that it waits for
	refused bool      // it waits, whatever it holds
}

func newMemory(size int64) *memory { return &memory{size: size, lanes: make(map[*tenant]struct{})} }

// join adds a lane. freed is called without the mutex, whenever bytes were freed and the lane waits for some.
func (m *memory) join(freed func()) *tenant {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &tenant{memory: m, freed: freed}
	m.lanes[t] = struct{}{}
	return t
}

// leave removes a lane. It may still release what it holds.
func (t *tenant) leave() {
	t.memory.mu.Lock()
	delete(t.memory.lanes, t)
	t.since, t.refused = time.Time{}, false
	t.memory.mu.Unlock()
	t.memory.tellWaiting()
}

// acquire takes size bytes and says whether there was room for them. If not, again is when to ask anew even if nothing is freed; zero
// means that it waits for bytes of its own lane.
func (t *tenant) acquire(now time.Time, size int64) (ok bool, again time.Time) {
	m := t.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.used > 0 && t.used+size > m.size/int64(max(1, len(m.lanes))) {
		t.refused = true
		return false, time.Time{}
	}
	fits := m.used == 0 || m.used+size <= m.size && !m.owed(t, now, size)
	if !fits && (t.used > 0 || t.since.IsZero() || now.Sub(t.since) < memoryPatience) {
		t.refused = true
		if t.used > 0 {
			return false, time.Time{}
		}
		if t.since.IsZero() {
			t.since = now
		}
		t.want = size
		return false, t.since.Add(memoryPatience)
	}
	t.used += size
	m.used += size
	t.since, t.refused = time.Time{}, false
	return true, time.Time{}
}

// forget notes that the lane waits for no bytes any more.
func (t *tenant) forget() {
	t.memory.mu.Lock()
	defer t.memory.mu.Unlock()
	t.since, t.refused = time.Time{}, false
}

// owed says whether another lane has waited longer and would find no room beside size bytes. The caller holds the mutex.
func (m *memory) owed(t *tenant, now time.Time, size int64) bool {
	for other := range m.lanes {
		if other == t || other.since.IsZero() || now.Sub(other.since) > memoryTurn {
			continue
		}
		if (t.since.IsZero() || other.since.Before(t.since)) && m.used+size+other.want > m.size {
			return true
		}
	}
	return false
}

// release gives bytes back.
func (t *tenant) release(size int64) {
	if size == 0 {
		return
	}
	t.memory.mu.Lock()
	t.used -= size
	t.memory.used -= size
	t.memory.mu.Unlock()
	t.memory.tellWaiting()
}

// tellWaiting tells the lanes that wait for bytes.
func (m *memory) tellWaiting() {
	m.mu.Lock()
	var list []*tenant
	for t := range m.lanes {
		if t.refused {
			list = append(list, t)
		}
	}
	m.mu.Unlock()
	for _, t := range list {
		t.freed()
	}
}
