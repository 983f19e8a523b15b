// Pause is the first process of a pod's sandbox and of a node: it waits, and reaps whatever its namespace orphans.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// The kernel delivers to the first process of a namespace only the signals it has asked for.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGTERM)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 && err != syscall.EINTR {
				break
			}
		}
	}
}
