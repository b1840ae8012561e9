// SPDX-License-Identifier: GPL-2.0
/*
 * Static inlines and macros that Rust cannot reach, as functions of their own.
 * Some do more, where lists are walked by macros or Rust has no bindings of a
 * structure; what is decided by the result is decided in Rust.
 */
#include "helpers.h"

#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/errqueue.h>
#include <linux/inetdevice.h>
#include <linux/memcontrol.h>
#include <linux/proc_fs.h>
#include <linux/net.h>
#include <linux/sched/signal.h>
#include <linux/siphash.h>
#include <linux/splice.h>
#include <linux/seq_file_net.h>
#include <net/addrconf.h>
#include <net/ip6_route.h>
#include <net/l3mdev.h>
#include <net/net_namespace.h>
#include <net/netlink.h>
#include <net/netns/generic.h>
#include <net/proto_memory.h>
#include <net/route.h>
#include <net/sock_reuseport.h>

/* net */

void sdp_helper_lock_sock(struct sock *sk)
{
	lock_sock(sk);
}

void sdp_helper_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void sdp_helper_sock_put(struct sock *sk)
{
	sock_put(sk);
}

void sdp_helper_sock_orphan(struct sock *sk)
{
	sock_orphan(sk);
}

void sdp_helper_sock_graft(struct sock *sk, struct socket *sock)
{
	sock_graft(sk, sock);
}

bool sdp_helper_sock_flag(const struct sock *sk, enum sock_flags flag)
{
	return sock_flag(sk, flag);
}

void sdp_helper_sock_valbool_flag(struct sock *sk, enum sock_flags bit,
				  int valbool)
{
	sock_valbool_flag(sk, bit, valbool);
}

/*
 * The SYN with which TCP would ask for a connection between these addresses,
 * of which those of IPv4 are mapped; with @ack the answer to one.
 */
static struct sk_buff *make_syn(const struct sdp_end *from,
				const struct sdp_end *to, bool ack, u8 tos,
				gfp_t gfp)
{
	bool is_v4 = ipv6_addr_v4mapped(&to->ip);
	struct sk_buff *skb;
	struct tcphdr *th;

	skb = alloc_skb(MAX_TCP_HEADER, gfp);
	if (!skb)
		return NULL;
	skb_reserve(skb, MAX_TCP_HEADER - sizeof(*th));
	th = skb_put_zero(skb, sizeof(*th));
	skb_reset_transport_header(skb);
	th->source = from->port;
	th->dest = to->port;
	th->doff = sizeof(*th) / 4;
	th->syn = 1;
	th->ack = ack;
	if (is_v4) {
		struct iphdr *iph = skb_push(skb, sizeof(*iph));

		*iph = (struct iphdr){
			.version = 4,
			.ihl = sizeof(*iph) / 4,
			.tos = tos,
			.tot_len = htons(skb->len),
			.frag_off = htons(IP_DF),
			.ttl = IPDEFTTL,
			.protocol = IPPROTO_TCP,
			.saddr = from->ip.s6_addr32[3],
			.daddr = to->ip.s6_addr32[3],
		};
		ip_send_check(iph);
	} else {
		struct ipv6hdr *ip6h = skb_push(skb, sizeof(*ip6h));

		*ip6h = (struct ipv6hdr){
			.version = 6,
			.payload_len = htons(sizeof(*th)),
			.nexthdr = IPPROTO_TCP,
			.hop_limit = IPV6_DEFAULT_HOPLIMIT,
			.saddr = from->ip,
			.daddr = to->ip,
		};
	}
	skb_reset_network_header(skb);
	skb->protocol = is_v4 ? htons(ETH_P_IP) : htons(ETH_P_IPV6);
	skb->ip_summed = CHECKSUM_UNNECESSARY;
	return skb;
}

#ifdef CONFIG_CGROUP_BPF
bool sdp_helper_cgroup_bpf_sock_enabled(struct sock *sk,
					enum cgroup_bpf_attach_type type)
{
	return cgroup_bpf_sock_enabled(sk, type);
}

/*
 * Has the programs of its control group that filter packets see a SYN that a
 * TCP socket sends, or receives, between its addresses by an interface; with
 * @ack the answer to one. Fails with -EPERM where they drop it, and -ENOMEM.
 */
int sdp_helper_filter_syn(struct sock *sk, bool egress, bool ack, int interface)
{
	enum cgroup_bpf_attach_type type = egress ? CGROUP_INET_EGRESS :
						    CGROUP_INET_INGRESS;
	const struct inet_sock *inet = inet_sk(sk);
	struct sdp_end own = { .port = inet->inet_sport };
	struct sdp_end peer = { .port = inet->inet_dport };
	struct sk_buff *skb;
	int ret;

	if (!cgroup_bpf_sock_enabled(sk, type))
		return 0;
	if (sk->sk_family == AF_INET || ipv6_addr_v4mapped(&sk->sk_v6_daddr)) {
		ipv6_addr_set_v4mapped(inet->inet_saddr, &own.ip);
		ipv6_addr_set_v4mapped(inet->inet_daddr, &peer.ip);
	} else {
		own.ip = sk->sk_v6_rcv_saddr;
		peer.ip = sk->sk_v6_daddr;
	}
	skb = make_syn(egress ? &own : &peer, egress ? &peer : &own, ack,
		       inet->tos, GFP_KERNEL);
	if (!skb)
		return -ENOMEM;
	skb->priority = READ_ONCE(sk->sk_priority);
	skb->mark = READ_ONCE(sk->sk_mark);
	skb->skb_iif = egress ? 0 : interface;
	rcu_read_lock();
	skb->dev = dev_get_by_index_rcu(sock_net(sk), interface);
	ret = __cgroup_bpf_run_filter_skb(sk, skb, type);
	rcu_read_unlock();
	skb->dev = NULL;
	kfree_skb(skb);
	return ret == NET_XMIT_SUCCESS || ret == NET_XMIT_CN ? 0 : -EPERM;
}
#endif

/*
 * Has a sock that begins to listen join the group of another that listens at
 * its address, or begin one.
 */
int sdp_helper_reuseport_join(struct sock *sk, struct sock *other, bool any)
{
	/*
	 * Who selects looks at the members under RCU. One that has no group
	 * before another joins it lacks the flag; the lock of the port, under
	 * which a program selects, keeps it until it has left.
	 */
	sock_set_flag(sk, SOCK_RCU_FREE);
	return other ? reuseport_add_sock(sk, other, any) :
		       reuseport_alloc(sk, any);
}

/*
 * The member of the group of a listening sock to which its program gives a SYN
 * that comes by an interface, or @hash where it gives that to none; NULL
 * without a program. It may be gone already.
 */
const void *sdp_helper_reuseport_select(struct sock *sk,
					const struct sdp_end *peer,
					const struct sdp_end *own,
					int interface, u32 hash)
{
	const struct sock_reuseport *reuse;
	struct sock *chosen = NULL;
	struct sk_buff *skb;

	rcu_read_lock();
	reuse = rcu_dereference(sk->sk_reuseport_cb);
	if (!reuse || !rcu_access_pointer(reuse->prog))
		goto out;
	skb = make_syn(peer, own, false, 0, GFP_ATOMIC);
	if (!skb)
		goto out;
	skb->skb_iif = interface;
	skb->dev = dev_get_by_index_rcu(sock_net(sk), interface);
	skb_set_hash(skb, hash, PKT_HASH_TYPE_L4);
	/* TCP has the program look at what follows its header. */
	__skb_pull(skb, skb_transport_offset(skb));
	chosen = reuseport_select_sock(sk, hash, skb, sizeof(struct tcphdr));
	skb->dev = NULL;
	kfree_skb(skb);
out:
	rcu_read_unlock();
	return IS_ERR(chosen) ? NULL : chosen;
}

struct net *sdp_helper_sock_net(const struct sock *sk)
{
	return sock_net(sk);
}

/* A sock without a file has none. */
wait_queue_head_t *sdp_helper_sk_sleep(struct sock *sk)
{
	return rcu_access_pointer(sk->sk_wq) ? sk_sleep(sk) : NULL;
}

void sdp_helper_sock_poll_wait(struct file *file, struct socket *sock,
			       struct poll_table_struct *p)
{
	sock_poll_wait(file, sock, p);
}

/* sock_orphan() takes the lock too, so the file is there meanwhile. */
void sdp_helper_sk_send_sigurg(struct sock *sk)
{
	read_lock_bh(&sk->sk_callback_lock);
	sk_send_sigurg(sk);
	read_unlock_bh(&sk->sk_callback_lock);
}

/* Has write_space() raise SIGIO, for a file with O_ASYNC; under the socket lock. */
void sdp_helper_sk_async_nospace(struct sock *sk)
{
	if (rcu_access_pointer(sk->sk_wq))
		sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk);
}

void sdp_helper_sk_wake_async_out(struct sock *sk)
{
	sk_wake_async(sk, SOCK_WAKE_IO, POLL_OUT);
}

/* The end of what is read; of the connection where nothing is sent any more either. */
void sdp_helper_sk_wake_async_end(struct sock *sk, bool both)
{
	sk_wake_async(sk, SOCK_WAKE_WAITD, both ? POLL_HUP : POLL_IN);
}

/* While a call waits for data, who has O_ASYNC is not told of it. Under the socket lock. */
void sdp_helper_sk_async_waitdata(struct sock *sk, bool waits)
{
	if (!rcu_access_pointer(sk->sk_wq))
		return;
	if (waits)
		sk_set_bit(SOCKWQ_ASYNC_WAITDATA, sk);
	else
		sk_clear_bit(SOCKWQ_ASYNC_WAITDATA, sk);
}

static struct dst_entry *find_route6(struct sock *sk, struct flowi6 *fl6,
				     const struct in6_addr *daddr, __be16 dport,
				     const struct in6_addr *saddr, __be16 sport)
{
	*fl6 = (struct flowi6){
		.flowi6_proto = IPPROTO_TCP,
		.daddr = *daddr,
		.saddr = *saddr,
		.flowlabel = ip6_make_flowinfo(inet6_sk(sk)->tclass, 0),
		.flowi6_oif = sk->sk_bound_dev_if,
		.flowi6_mark = READ_ONCE(sk->sk_mark),
		.flowi6_uid = sk_uid(sk),
		.fl6_dport = dport,
		.fl6_sport = sport,
	};
	security_sk_classify_flow(sk, flowi6_to_flowi_common(fl6));
	return ip6_dst_lookup_flow(sock_net(sk), sk, fl6, NULL);
}

/*
 * The interface by which TCP's connect would reach a peer, 0 for an address of
 * this host, or an error; and the source address, if *saddr is not set. Under
 * the socket lock, as what follows.
 */
int sdp_helper_find_route4(struct sock *sk, __be32 daddr, __be16 dport,
			   __be32 *saddr, __be16 sport)
{
	struct flowi4 fl4;
	struct rtable *rt;
	int interface = 0;

	rt = ip_route_connect(&fl4, daddr, *saddr, sk->sk_bound_dev_if,
			      IPPROTO_TCP, sport, dport, sk);
	if (IS_ERR(rt))
		return PTR_ERR(rt);
	*saddr = fl4.saddr;
	rcu_read_lock();
	if (rt->rt_flags & (RTCF_MULTICAST | RTCF_BROADCAST))
		interface = -ENETUNREACH;
	else if (rt->rt_type != RTN_LOCAL)
		interface = READ_ONCE(rt->dst.dev)->ifindex;
	rcu_read_unlock();
	ip_rt_put(rt);
	return interface;
}

int sdp_helper_find_route6(struct sock *sk, const struct in6_addr *daddr,
			   __be16 dport, struct in6_addr *saddr, __be16 sport)
{
	struct flowi6 fl6;
	struct dst_entry *dst;
	int interface = 0;

	dst = find_route6(sk, &fl6, daddr, dport, saddr, sport);
	if (IS_ERR(dst))
		return PTR_ERR(dst);
	*saddr = fl6.saddr;
	rcu_read_lock();
	if (!(dst_rt6_info(dst)->rt6i_flags & RTF_LOCAL))
		interface = READ_ONCE(dst->dev)->ifindex;
	rcu_read_unlock();
	dst_release(dst);
	return interface;
}

/*
 * Gives a connected sock the route to its peer, where IP's level looks for the
 * MTU of the path; another none.
 */
void sdp_helper_sk_find_route(struct sock *sk)
{
	struct inet_sock *inet = inet_sk(sk);
	struct dst_entry *dst = NULL;

	if (!inet->inet_dport) {
		sk_dst_reset(sk);
		return;
	}
	if (inet->pinet6 && !ipv6_addr_v4mapped(&sk->sk_v6_daddr)) {
		struct flowi6 fl6;

		dst = find_route6(sk, &fl6, &sk->sk_v6_daddr, inet->inet_dport,
				  &inet->pinet6->saddr, inet->inet_sport);
	} else {
		struct flowi4 fl4;
		struct rtable *rt;

		rt = ip_route_connect(&fl4, inet->inet_daddr, inet->inet_saddr,
				      sk->sk_bound_dev_if, IPPROTO_TCP,
				      inet->inet_sport, inet->inet_dport, sk);
		dst = IS_ERR(rt) ? ERR_CAST(rt) : &rt->dst;
	}
	sk_dst_set(sk, IS_ERR(dst) ? NULL : dst);
}

bool sdp_helper_signal_pending(struct task_struct *task)
{
	return signal_pending(task);
}

int sdp_helper_sock_error(struct sock *sk)
{
	return sock_error(sk);
}

long sdp_helper_sock_rcvtimeo(const struct sock *sk, bool noblock)
{
	return sock_rcvtimeo(sk, noblock);
}

int sdp_helper_sock_max_wmem(const struct sock *sk)
{
	return READ_ONCE(sock_net(sk)->ipv4.sysctl_tcp_wmem[2]);
}

int sdp_helper_sock_max_rmem(const struct sock *sk)
{
	return READ_ONCE(sock_net(sk)->ipv4.sysctl_tcp_rmem[2]);
}

u8 sdp_helper_pmtudisc(const struct net *net)
{
	return READ_ONCE(net->ipv4.sysctl_ip_no_pmtu_disc) ? IP_PMTUDISC_DONT :
							     IP_PMTUDISC_WANT;
}

bool sdp_helper_is_fastopen_client(const struct net *net)
{
	return READ_ONCE(net->ipv4.sysctl_tcp_fastopen) & TFO_CLIENT_ENABLE;
}

/* Fields that not every configuration has. */
struct sdp_busy_poll sdp_helper_busy_poll(const struct sock *sk)
{
	struct sdp_busy_poll all = {};

#ifdef CONFIG_NET_RX_BUSY_POLL
	all.usecs = READ_ONCE(sk->sk_ll_usec);
	all.budget = READ_ONCE(sk->sk_busy_poll_budget);
	all.prefer = READ_ONCE(sk->sk_prefer_busy_poll);
#endif
	return all;
}

void sdp_helper_set_busy_poll(struct sock *sk, const struct sdp_busy_poll *all)
{
#ifdef CONFIG_NET_RX_BUSY_POLL
	sk->sk_ll_usec = all->usecs;
	sk->sk_busy_poll_budget = all->budget;
	sk->sk_prefer_busy_poll = all->prefer;
#endif
}

/*
 * The control messages of a send, checked as TCP does: the SOF_TIMESTAMPING_*
 * that it has with them, or an error. The others have no effect.
 */
int sdp_helper_sock_cmsg_send(struct sock *sk, struct msghdr *msg)
{
	struct sockcm_cookie sockc;
	int ret;

	sockcm_init(&sockc, sk);
	ret = sock_cmsg_send(sk, msg, &sockc);
	if (ret)
		return ret;
	/* A stream has keys of its own. */
	if (sockc.tsflags & SOCKCM_FLAG_TS_OPT_ID)
		return -EINVAL;
	return sockc.tsflags & SOF_TIMESTAMPING_MASK;
}

/* The statistics of a connection that come with a stamp (SOF_TIMESTAMPING_OPT_STATS). */
static struct sk_buff *tx_stats(const struct tcp_info *info, u32 queued)
{
	struct sk_buff *skb;

	skb = alloc_skb(4 * nla_total_size_64bit(sizeof(u64)) +
			3 * nla_total_size(sizeof(u32)), GFP_ATOMIC);
	if (!skb)
		return NULL;
	nla_put_u64_64bit(skb, TCP_NLA_BUSY, info->tcpi_busy_time, TCP_NLA_PAD);
	nla_put_u64_64bit(skb, TCP_NLA_RWND_LIMITED, info->tcpi_rwnd_limited,
			  TCP_NLA_PAD);
	nla_put_u64_64bit(skb, TCP_NLA_DATA_SEGS_OUT, info->tcpi_data_segs_out,
			  TCP_NLA_PAD);
	nla_put_u32(skb, TCP_NLA_SND_CWND, info->tcpi_snd_cwnd);
	nla_put_u32(skb, TCP_NLA_SNDQ_SIZE, queued);
	nla_put_u64_64bit(skb, TCP_NLA_BYTES_SENT, info->tcpi_bytes_sent,
			  TCP_NLA_PAD);
	nla_put_u32(skb, TCP_NLA_BYTES_NOTSENT, info->tcpi_notsent_bytes);
	return skb;
}

/*
 * Reports in the error queue that a byte has reached a stage, SCM_TSTAMP_*,
 * now; with statistics from the copy of a struct tcp_info and how much is
 * queued, unless that is NULL. As with TCP it is dropped where the queue has no
 * room.
 */
void sdp_helper_put_tx_stamp(struct sock *sk, u32 stage, u32 key,
			     const void *stats, u32 queued)
{
	struct sock_exterr_skb *serr;
	struct tcp_info info;
	struct sk_buff *skb;

	if (stats) {
		memcpy(&info, stats, sizeof(info));
		skb = tx_stats(&info, queued);
	} else {
		skb = alloc_skb(0, GFP_ATOMIC);
	}
	if (!skb)
		return;
	__net_timestamp(skb);
	serr = SKB_EXT_ERR(skb);
	memset(serr, 0, sizeof(*serr));
	serr->ee.ee_errno = ENOMSG;
	serr->ee.ee_origin = SO_EE_ORIGIN_TIMESTAMPING;
	serr->ee.ee_info = stage;
	if (READ_ONCE(sk->sk_tsflags) & SOF_TIMESTAMPING_OPT_ID)
		serr->ee.ee_data = key;
	serr->opt_stats = !!stats;
	if (sock_queue_err_skb(sk, skb))
		kfree_skb(skb);
}

long sdp_helper_sock_sndtimeo(const struct sock *sk, bool noblock)
{
	return sock_sndtimeo(sk, noblock);
}

int sdp_helper_sock_rcvlowat(const struct sock *sk, int waitall, int len)
{
	return sock_rcvlowat(sk, waitall, len);
}

int sdp_helper_sock_intr_errno(long timeo)
{
	return sock_intr_errno(timeo);
}

/*
 * The next entry of the error queue as ip_recv_error() and ipv6_recv_error()
 * give one that no packet has caused: with an empty address behind it, which
 * programs look for.
 */
int sdp_helper_recv_error(struct sock *sk, struct msghdr *msg, int len,
			  bool is_v6)
{
	struct {
		struct sock_extended_err ee;
		union {
			struct sockaddr_in v4;
			struct sockaddr_in6 v6;
		} offender;
	} notice = {};
	struct sk_buff *skb = sock_dequeue_err_skb(sk);
	int copied, err;

	if (!skb)
		return -EAGAIN;
	copied = min_t(int, skb->len, len);
	if (copied < skb->len)
		msg->msg_flags |= MSG_TRUNC;
	err = skb_copy_datagram_msg(skb, 0, msg, copied);
	if (err) {
		kfree_skb(skb);
		return err;
	}
	sock_recv_timestamp(msg, sk, skb);
	notice.ee = SKB_EXT_ERR(skb)->ee;
	if (is_v6)
		put_cmsg(msg, SOL_IPV6, IPV6_RECVERR,
			 offsetofend(typeof(notice), offender.v6), &notice);
	else
		put_cmsg(msg, SOL_IP, IP_RECVERR,
			 offsetofend(typeof(notice), offender.v4), &notice);
	msg->msg_flags |= MSG_ERRQUEUE;
	consume_skb(skb);
	return copied;
}

bool sdp_helper_skb_queue_empty_lockless(const struct sk_buff_head *list)
{
	return skb_queue_empty_lockless(list);
}

void sdp_helper_net_zcopy_get(struct ubuf_info *uarg)
{
	net_zcopy_get(uarg);
}

void sdp_helper_get_page(struct page *page)
{
	get_page(page);
}

void sdp_helper_put_page(struct page *page)
{
	put_page(page);
}

bool sdp_helper_pipe_is_full(const struct pipe_inode_info *pipe)
{
	return pipe_is_full(pipe);
}

/* Consumes the reference of the page, also on failure. */
ssize_t sdp_helper_add_to_pipe(struct pipe_inode_info *pipe, struct page *page,
			       unsigned int offset, unsigned int len)
{
	struct pipe_buffer buf = {
		.page = page,
		.offset = offset,
		.len = len,
		.ops = &nosteal_pipe_buf_ops,
	};

	return add_to_pipe(pipe, &buf);
}

void *sdp_helper_net_generic(const struct net *net, unsigned int id)
{
	return net_generic(net, id);
}

/* Succeeds without procfs. */
bool sdp_helper_proc_create_net_single(const char *name, struct net *net,
				       int (*show)(struct seq_file *, void *),
				       void *value)
{
	return !IS_ENABLED(CONFIG_PROC_FS) ||
	       proc_create_net_single(name, 0444, net->proc_net, show, value);
}

void sdp_helper_remove_proc_entry(const char *name, struct net *net)
{
	remove_proc_entry(name, net->proc_net);
}

void *sdp_helper_seq_value(struct seq_file *seq)
{
	return pde_data(file_inode(seq->file));
}

/* As above, for a file of several lines. */
bool sdp_helper_proc_create_net(const char *name, struct net *net,
				const struct seq_operations *ops, void *value)
{
	return !IS_ENABLED(CONFIG_PROC_FS) ||
	       proc_create_net_data(name, 0444, net->proc_net, ops,
				    sizeof(struct seq_net_private), value);
}

u32 sdp_helper_seq_uid(struct seq_file *seq, u32 kuid)
{
	return from_kuid_munged(seq_user_ns(seq), KUIDT_INIT(kuid));
}

/* A hash with a random key, which cannot be predicted. */
u64 sdp_helper_hash(u64 first, u64 second, u64 third)
{
	static siphash_key_t key __read_mostly;

	net_get_random_once(&key, sizeof(key));
	return siphash_3u64(first, second, third, &key);
}

int sdp_helper_this_cpu(void)
{
	return raw_smp_processor_id();
}

void sdp_helper_sock_prot_inuse_add(const struct sock *sk, int val)
{
	sock_prot_inuse_add(sock_net(sk), sk->sk_prot, val);
}

unsigned long sdp_helper_sock_i_ino(const struct sock *sk)
{
	return sock_i_ino((struct sock *)sk);
}

/* 0 without CONFIG_SOCK_CGROUP_DATA. */
u64 sdp_helper_sk_cgroup_id(const struct sock *sk)
{
#ifdef CONFIG_SOCK_CGROUP_DATA
	return cgroup_id(sock_cgroup_ptr((void *)&sk->sk_cgrp_data));
#else
	return 0;
#endif
}

/* Gives an accepted sock the cgroup of its listener, as sk_clone() does. */
void sdp_helper_inherit_cgroup(const struct sock *from, struct sock *to)
{
#ifdef CONFIG_SOCK_CGROUP_DATA
	struct cgroup *own = sock_cgroup_ptr(&to->sk_cgrp_data);
	struct cgroup *cgroup;

	to->sk_cgrp_data = from->sk_cgrp_data;
	cgroup = sock_cgroup_ptr(&to->sk_cgrp_data);
	cgroup_get(cgroup);
	cgroup_bpf_get(cgroup);
	cgroup_bpf_put(own);
	cgroup_put(own);
#endif
}

/* What identifies the memory cgroup that is charged for a socket. */
const void *sdp_helper_sk_memcg(const struct sock *sk)
{
#ifdef CONFIG_MEMCG
	return sk->sk_memcg;
#else
	return NULL;
#endif
}

/*
 * The pages that the memory cgroup of a socket, and those above it, have left.
 * Rust has no bindings of struct mem_cgroup, which differs by configuration.
 */
unsigned long sdp_helper_sk_memcg_room(const struct sock *sk)
{
	unsigned long room = ULONG_MAX;
#ifdef CONFIG_MEMCG
	struct mem_cgroup *memcg;

	if (!mem_cgroup_sk_enabled(sk) ||
	    !cgroup_subsys_on_dfl(memory_cgrp_subsys))
		return room;
	for (memcg = mem_cgroup_from_sk(sk); memcg;
	     memcg = parent_mem_cgroup(memcg)) {
		unsigned long used = page_counter_read(&memcg->memory);
		unsigned long max = READ_ONCE(memcg->memory.max);

		room = min(room, max > used ? max - used : 0);
	}
#endif
	return room;
}

/*
 * Has the kernel reclaim memory of the cgroup of a socket, which it does for a
 * charge: all of that fits then, or nothing (false), and for one of more than
 * eight pages it kills nobody. The charge is to another socket, of which only
 * what is set here and zeroes are used, so that nobody waits for the lock of
 * this one's, and net.sdp.mem does not count it. It is uncharged at once, and
 * is more than a CPU would keep of it.
 */
bool sdp_helper_sk_memcg_reclaim(const struct sock *sk, unsigned int pages)
{
	bool charged = false;
#ifdef CONFIG_MEMCG
	int bytes = max(pages, MEMCG_CHARGE_BATCH + 1) << PAGE_SHIFT;
	struct sock *other = kzalloc_obj(*other);

	if (!other)
		return false;
	other->sk_prot = sk->sk_prot;
	other->sk_memcg = sk->sk_memcg;
	other->sk_bypass_prot_mem = 1;
	charged = __sk_mem_schedule(other, bytes, SK_MEM_RECV);
	if (charged)
		__sk_mem_reclaim(other, bytes);
	kfree(other);
#endif
	return charged;
}

bool sdp_helper_sk_under_memory_pressure(const struct sock *sk)
{
	return sk_under_memory_pressure(sk);
}

/*
 * The owner of the outermost user namespace below the host's that the current
 * task is in, or where the host's root made that its own root; else its user.
 * Here since Rust has no bindings of struct user_namespace.
 */
u32 sdp_helper_responsible_uid(void)
{
	struct user_namespace *ns = current_user_ns();
	kuid_t uid = current_euid();

	for (; ns->parent; ns = ns->parent) {
		kuid_t root = make_kuid(ns, 0);

		if (!uid_eq(ns->owner, GLOBAL_ROOT_UID))
			uid = ns->owner;
		else if (uid_valid(root) && !uid_eq(root, GLOBAL_ROOT_UID))
			uid = root;
	}
	return __kuid_val(uid);
}

void sdp_helper_sk_meminfo(const struct sock *sk,
			   struct inet_diag_meminfo *info)
{
	info->idiag_rmem = sk_rmem_alloc_get(sk);
	info->idiag_wmem = READ_ONCE(sk->sk_wmem_queued);
	info->idiag_fmem = READ_ONCE(sk->sk_forward_alloc);
	info->idiag_tmem = sk_wmem_alloc_get(sk);
}

struct nlmsghdr *sdp_helper_nlmsg_put(struct sk_buff *skb,
				      struct sk_buff *request,
				      const struct nlmsghdr *nlh, int payload,
				      int flags)
{
	return nlmsg_put(skb, NETLINK_CB(request).portid, nlh->nlmsg_seq,
			 nlh->nlmsg_type, payload, flags);
}

void sdp_helper_nlmsg_end(struct sk_buff *skb, struct nlmsghdr *nlh)
{
	nlmsg_end(skb, nlh);
}

void sdp_helper_nlmsg_cancel(struct sk_buff *skb, struct nlmsghdr *nlh)
{
	nlmsg_cancel(skb, nlh);
}

int sdp_helper_nla_put_u64(struct sk_buff *skb, int type, u64 value, int pad)
{
	return nla_put_u64_64bit(skb, type, value, pad);
}

struct sk_buff *sdp_helper_nlmsg_new(size_t payload)
{
	return nlmsg_new(payload, GFP_KERNEL);
}

void sdp_helper_nlmsg_free(struct sk_buff *skb)
{
	nlmsg_free(skb);
}

struct net *sdp_helper_skb_net(const struct sk_buff *skb)
{
	return sock_net(skb->sk);
}

/* Takes skb over. */
int sdp_helper_nlmsg_reply(struct sk_buff *skb, struct sk_buff *request)
{
	return nlmsg_unicast(sock_net(request->sk)->diag_nlsk, skb,
			     NETLINK_CB(request).portid);
}

u32 sdp_helper_netlink_uid(struct sk_buff *request, u32 kuid)
{
	return from_kuid_munged(sk_user_ns(NETLINK_CB(request).sk),
				KUIDT_INIT(kuid));
}

int sdp_helper_netlink_dump_start(struct sk_buff *skb,
				  const struct nlmsghdr *nlh,
				  int (*dump)(struct sk_buff *,
					      struct netlink_callback *))
{
	struct netlink_dump_control control = {
		.dump = dump,
	};

	return netlink_dump_start(sock_net(skb->sk)->diag_nlsk, skb, nlh,
				  &control);
}

bool sdp_helper_net_admin(const struct net *net)
{
	return ns_capable(net->user_ns, CAP_NET_ADMIN);
}

int sdp_helper_copy_from_sockptr(void *dst, sockptr_t src, size_t size)
{
	return copy_from_sockptr(dst, src, size);
}

/* Pages of socket memory that a CPU counts by itself. */
static DEFINE_PER_CPU(int, sdp_memory_per_cpu_fw_alloc);

int __percpu *sdp_helper_per_cpu_fw_alloc(void)
{
	return &sdp_memory_per_cpu_fw_alloc;
}

struct net *sdp_helper_get_net(struct net *net)
{
	return get_net(net);
}

void sdp_helper_put_net(struct net *net)
{
	put_net(net);
}

int sdp_helper_somaxconn(const struct net *net)
{
	return READ_ONCE(net->core.sysctl_somaxconn);
}

void sdp_helper_tcp_sysctls(const struct net *net,
			    struct sdp_helper_tcp_sysctls *to)
{
	const struct netns_ipv4 *ipv4 = &net->ipv4;

	to->keepalive_time =
		jiffies_to_msecs(READ_ONCE(ipv4->sysctl_tcp_keepalive_time));
	to->keepalive_intvl =
		jiffies_to_msecs(READ_ONCE(ipv4->sysctl_tcp_keepalive_intvl));
	to->keepalive_probes = READ_ONCE(ipv4->sysctl_tcp_keepalive_probes);
	to->retries2 = READ_ONCE(ipv4->sysctl_tcp_retries2);
	to->syn_retries = READ_ONCE(ipv4->sysctl_tcp_syn_retries);
	to->rto_max = READ_ONCE(ipv4->sysctl_tcp_rto_max_ms);
}

/* As seen from an interface, which may be in a VRF, or from none (0). */
bool sdp_helper_is_local(struct net *net, __be32 addr, unsigned int interface)
{
	u32 table = 0;

	if (interface)
		table = l3mdev_fib_table_by_index(net, interface);
	return inet_addr_type_table(net, addr, table ?: RT_TABLE_LOCAL) ==
	       RTN_LOCAL;
}

/* The VRF that an interface is in, or 0. */
unsigned int sdp_helper_l3mdev_master(struct net *net, unsigned int interface)
{
	return l3mdev_master_ifindex_by_index(net, interface);
}

bool sdp_helper_tcp_l3mdev_accept(const struct net *net)
{
#ifdef CONFIG_NET_L3_MASTER_DEV
	return READ_ONCE(net->ipv4.sysctl_tcp_l3mdev_accept);
#else
	return true;
#endif
}

bool sdp_helper_inet_can_nonlocal_bind(struct sock *sk)
{
	return inet_can_nonlocal_bind(sock_net(sk), inet_sk(sk));
}

bool sdp_helper_ipv6_can_nonlocal_bind(struct sock *sk)
{
	return ipv6_can_nonlocal_bind(sock_net(sk), inet_sk(sk));
}

/* Of bytes. */
int sdp_helper_path_mtu(const struct sa_path_rec *rec)
{
	return max(ib_mtu_enum_to_int(rec->mtu), 0);
}

u8 *sdp_helper_sa_path_get_dmac(struct sa_path_rec *rec)
{
	return sa_path_get_dmac(rec);
}

__be32 sdp_helper_sa_path_get_dlid(struct sa_path_rec *rec)
{
	return sa_path_get_dlid(rec);
}

const struct cred *sdp_helper_override_kernel_creds(void)
{
	return override_creds(kernel_cred());
}

void sdp_helper_revert_creds(const struct cred *old)
{
	revert_creds(old);
}

/* The IPv4 address number @at of those that are not loopback ones, or 0. */
__be32 sdp_helper_own_addr(struct net *net, unsigned int at)
{
	const struct in_device *in_dev;
	const struct in_ifaddr *ifa;
	struct net_device *dev;
	__be32 addr = 0;

	rcu_read_lock();
	for_each_netdev_rcu(net, dev) {
		in_dev = __in_dev_get_rcu(dev);
		if (!in_dev || dev->flags & IFF_LOOPBACK ||
		    !(dev->flags & IFF_UP))
			continue;
		in_dev_for_each_ifa_rcu(ifa, in_dev) {
			if (!at--) {
				addr = ifa->ifa_local;
				goto found;
			}
		}
	}
found:
	rcu_read_unlock();
	return addr;
}

/* As seen from an interface, which may not exist, or from none (0). */
bool sdp_helper_is_local6(struct net *net, const struct in6_addr *addr,
			  unsigned int interface)
{
	const struct net_device *dev = NULL;
	bool is_local = false;

	rcu_read_lock();
	if (interface)
		dev = dev_get_by_index_rcu(net, interface);
	if (dev || !interface)
		is_local = ipv6_chk_addr(net, addr, dev, 0);
	rcu_read_unlock();
	return is_local;
}

bool sdp_helper_has_interface(struct net *net, unsigned int index)
{
	bool found;

	rcu_read_lock();
	found = dev_get_by_index_rcu(net, index);
	rcu_read_unlock();
	return found;
}

bool sdp_helper_bindv6only(const struct net *net)
{
	return READ_ONCE(net->ipv6.sysctl.bindv6only);
}

/* The same of IPv6. Returns the scope id, 0 for a global address, or an error. */
int sdp_helper_own_addr6(struct net *net, unsigned int at,
			 struct in6_addr *addr)
{
	const struct inet6_ifaddr *ifa;
	const struct inet6_dev *idev;
	struct net_device *dev;
	int scope = -ENODEV;

	rcu_read_lock();
	for_each_netdev_rcu(net, dev) {
		idev = __in6_dev_get(dev);
		if (!idev || dev->flags & IFF_LOOPBACK ||
		    !(dev->flags & IFF_UP))
			continue;
		list_for_each_entry_rcu(ifa, &idev->addr_list, if_list) {
			if (ifa->flags & IFA_F_TENTATIVE || at--)
				continue;
			*addr = ifa->addr;
			scope = ipv6_iface_scope_id(addr, dev->ifindex);
			goto found;
		}
	}
found:
	rcu_read_unlock();
	return scope;
}

bool sdp_helper_may_bind(struct net *net, unsigned short port)
{
	return !inet_port_requires_bind_service(net, port) ||
	       ns_capable(net->user_ns, CAP_NET_BIND_SERVICE);
}

bool sdp_helper_has_reserved_ports(const struct net *net)
{
	const unsigned long *ports = net->ipv4.sysctl_local_reserved_ports;

	return ports && !bitmap_empty(ports, 65536);
}

bool sdp_helper_is_reserved(struct net *net, unsigned short port)
{
	return inet_is_local_reserved_port(net, port);
}

void sdp_helper_INIT_DELAYED_WORK(struct delayed_work *work, work_func_t func)
{
	INIT_DELAYED_WORK(work, func);
}

void sdp_helper_INIT_WORK(struct work_struct *work, work_func_t func)
{
	INIT_WORK(work, func);
}

bool sdp_helper_queue_work(struct workqueue_struct *wq,
			   struct work_struct *work)
{
	return queue_work(wq, work);
}

struct workqueue_struct *sdp_helper_alloc_workqueue(const char *name,
						    int max_active)
{
	return alloc_workqueue("%s", WQ_UNBOUND, max_active, name);
}

/* All who wait but for those who poll, of whom none does so for EPOLLMSG. */
void sdp_helper_sk_wake_calls(struct sock *sk)
{
	struct socket_wq *wq;

	rcu_read_lock();
	wq = rcu_dereference(sk->sk_wq);
	if (skwq_has_sleeper(wq))
		__wake_up(&wq->wait, TASK_NORMAL, 0, poll_to_key(EPOLLMSG));
	rcu_read_unlock();
}

bool sdp_helper_signal_pending_state(unsigned int state,
				     struct task_struct *task)
{
	return signal_pending_state(state, task);
}

/* mm */

bool sdp_helper_iov_iter_extract_will_pin(const struct iov_iter *iter)
{
	return iov_iter_extract_will_pin(iter);
}

bool sdp_helper_iov_iter_is_bvec(const struct iov_iter *iter)
{
	return iov_iter_is_bvec(iter);
}

/* The address of a program's memory; 0 for kernel memory. */
unsigned long sdp_helper_iov_iter_addr(const struct iov_iter *iter)
{
	return user_backed_iter(iter) ? (unsigned long)iter_iov_addr(iter) : 0;
}

size_t sdp_helper_iov_iter_count(const struct iov_iter *iter)
{
	return iov_iter_count(iter);
}

bool sdp_helper_sendpage_ok(struct page *page)
{
	return sendpage_ok(page);
}

/* rdma */

void sdp_helper_spin_lock_bh(spinlock_t *lock)
{
	spin_lock_bh(lock);
}

void sdp_helper_spin_unlock_bh(spinlock_t *lock)
{
	spin_unlock_bh(lock);
}

bool sdp_helper_spin_trylock_bh(spinlock_t *lock)
{
	return spin_trylock_bh(lock);
}

/* Compound, so that each page can be referenced; the caller handles failure. */
struct page *sdp_helper_alloc_pages(gfp_t gfp, unsigned int order)
{
	return alloc_pages(gfp | __GFP_COMP | __GFP_NOWARN, order);
}

void *sdp_helper_page_address(struct page *page)
{
	return page_address(page);
}

bool sdp_helper_ib_device_try_get(struct ib_device *dev)
{
	return ib_device_try_get(dev);
}

bool sdp_helper_rdma_cap_iw_cm(struct ib_device *dev)
{
	return rdma_cap_iw_cm(dev, rdma_start_port(dev));
}

void sdp_helper_ib_dealloc_pd(struct ib_pd *pd)
{
	ib_dealloc_pd(pd);
}

u64 sdp_helper_ib_dma_map_page(struct ib_device *dev, struct page *page,
			       unsigned long offset, size_t size,
			       enum dma_data_direction direction)
{
	return ib_dma_map_page(dev, page, offset, size, direction);
}

int sdp_helper_ib_dma_mapping_error(struct ib_device *dev, u64 addr)
{
	return ib_dma_mapping_error(dev, addr);
}

u64 sdp_helper_ib_dma_map_single(struct ib_device *dev, void *addr, size_t size,
				 enum dma_data_direction direction)
{
	return ib_dma_map_single(dev, addr, size, direction);
}

void sdp_helper_ib_dma_unmap_single(struct ib_device *dev, u64 addr,
				    size_t size,
				    enum dma_data_direction direction)
{
	ib_dma_unmap_single(dev, addr, size, direction);
}

void sdp_helper_ib_dma_unmap_page(struct ib_device *dev, u64 addr, size_t size,
				  enum dma_data_direction direction)
{
	ib_dma_unmap_page(dev, addr, size, direction);
}

void sdp_helper_ib_dma_sync_single_for_device(struct ib_device *dev, u64 addr,
					      size_t size,
					      enum dma_data_direction direction)
{
	ib_dma_sync_single_for_device(dev, addr, size, direction);
}

int sdp_helper_ib_dma_map_sgtable(struct ib_device *dev, struct sg_table *sgt,
				  enum dma_data_direction direction)
{
	return ib_dma_map_sgtable_attrs(dev, sgt, direction, 0);
}

void sdp_helper_ib_dma_unmap_sgtable(struct ib_device *dev,
				     struct sg_table *sgt,
				     enum dma_data_direction direction)
{
	ib_dma_unmap_sgtable_attrs(dev, sgt, direction, 0);
}

unsigned int sdp_helper_ib_dma_max_seg_size(struct ib_device *dev)
{
	return ib_dma_max_seg_size(dev);
}

int sdp_helper_ib_dereg_mr(struct ib_mr *mr)
{
	return ib_dereg_mr(mr);
}

/* A key of its own for each registration. */
void sdp_helper_ib_next_fast_reg_key(struct ib_mr *mr)
{
	ib_update_fast_reg_key(mr, ib_inc_rkey(mr->rkey));
}

int sdp_helper_ib_post_send(struct ib_qp *qp, const struct ib_send_wr *wr,
			    const struct ib_send_wr **bad_wr)
{
	return ib_post_send(qp, wr, bad_wr);
}

int sdp_helper_ib_post_recv(struct ib_qp *qp, const struct ib_recv_wr *wr,
			    const struct ib_recv_wr **bad_wr)
{
	return ib_post_recv(qp, wr, bad_wr);
}
