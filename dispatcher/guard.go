package dispatcher

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
)

// guard calls functions of the application. A panic in one of them is logged and goes no further.
type guard struct {
	log *slog.Logger
}

// call calls hook. what names it in the log.
func (g guard) call(ctx context.Context, what string, hook func()) {
	defer func() {
		if p := recover(); p != nil {
			g.log.ErrorContext(ctx, "a hook panicked", "hook", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	hook()
}

// tell calls a function of the Observer unless it is nil.
func tell[T any](ctx context.Context, g guard, what string, hook func(context.Context, T), event T) {
	if hook != nil {
		g.call(ctx, what, func() { hook(ctx, event) })
	}
}
