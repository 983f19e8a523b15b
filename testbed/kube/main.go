// Kube is one program with the parts of a Kubernetes control plane and node, for tests.
//
// The name it is called by chooses the part (kube-apiserver, kubelet, etcd...); called by another name, its first
// argument does. One program instead of six links the code they share once, and is one file to cache.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	_ "time/tzdata" // a CronJob may name a time zone, and a test machine may know none

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/pkg/util/parsers"
)

// The commands are made when called: making one registers its flags and metrics, and they share names.
var parts = map[string]func() int{
	"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
	"kube-proxy":              func() int { return cli.Run(kubeproxy.NewProxyCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubelet":                 func() int { return cli.Run(newKubelet()) },
	"image-names":             imageNames,
}

func newKubelet() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }

// ImageNames prints each argument as the container runtime looks it up: with a registry and a tag.
func imageNames() int {
	for _, image := range os.Args[1:] {
		repository, tag, digest, err := parsers.ParseImageName(image)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if digest != "" {
			fmt.Printf("%s@%s\n", repository, digest)
			continue
		}
		fmt.Printf("%s:%s\n", repository, tag)
	}
	return 0
}

func main() {
	name := filepath.Base(os.Args[0])
	if parts[name] == nil && len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = os.Args[1:]
	}
	run := parts[name]
	if run == nil {
		fmt.Fprintf(os.Stderr, "usage: kube PART [FLAGS], where PART is one of: %s\n", strings.Join(partNames(), ", "))
		os.Exit(2)
	}
	os.Exit(run())
}

func partNames() []string {
	var names []string
	for name := range parts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
