package command

import (
	"github.com/cheggaaa/pb/v3"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/iostreams"
)

// barFrom is the largest total, in deliveries, that shows no bar.
const barFrom = 1000

// barTemplate shows the count, a bar, the rate and the remaining time.
const barTemplate pb.ProgressBarTemplate = `{{counters . }} {{bar . }} {{speed . "%s/s"}} {{rtime . "%s left"}}`

// progress shows the progress of a long operation on standard error. Its zero value shows nothing.
type progress struct{ bar *pb.ProgressBar }

// newProgress starts a bar if standard error is a terminal and the total is large. The caller must finish it.
func newProgress(s *iostreams.Streams, total int64) progress {
	if total <= barFrom || !s.ErrTTY {
		return progress{}
	}
	bar := pb.New64(total).SetTemplate(barTemplate).SetWriter(s.Err).Set(pb.Terminal, true).Set(pb.Color, s.ErrColor)
	if s.Width > 0 {
		bar.SetWidth(s.Width)
	}
	return progress{bar.Start()}
}

func (p progress) set(done int64) {
	if p.bar != nil {
		p.bar.SetCurrent(done)
	}
}

func (p progress) finish() {
	if p.bar != nil {
		p.bar.Finish()
	}
}
