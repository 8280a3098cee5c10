/*
 * The protocol of claims, fences, outcomes and the reaper. README.md beside this file says what it covers and how to run it.
 *
 * Each atomic block is a statement of the database, a step of a dispatcher or an event of the world. Anything may happen between two
 * of them. A process that is paused, slow or cut off takes its next step late.
 */

#ifndef MESSAGES
#define MESSAGES 2      /* the first and third have the policy Resend, the second Hold; 1 to 3 */
#endif
#ifndef CLAIMS
#define CLAIMS 3        /* claims at the same time, with those that only their holder still knows; 2 to 4 */
#endif
#ifndef FAULTS
#define FAULTS 2        /* what may go wrong in one run */
#endif
#ifndef WITHOUT
#define WITHOUT 0       /* the guard that is left out; 0 for none */
#endif

/* The guards. The test leaves out each of them and expects a fault. */
#define CLAIM_QUEUED     1  /* a claim takes only queued deliveries */
#define CLAIM_DURABLE    2  /* a claim that promises no fences is on disk before its messages are sent */
#define FENCE_CLAIM      3  /* a fence needs its claim */
#define FENCE_LAPSED     4  /* a fence needs a claim that is not marked as lapsed */
#define FENCE_LOCK       5  /* a fence keeps the reaper from marking the claim until it is committed */
#define FENCE_REFUSED    6  /* a message whose fence was refused is not sent */
#define FENCE_ERROR      7  /* a message whose fence has no answer is not sent */
#define FENCE_DURABLE    8  /* a fence is on disk before its message is sent */
#define RENEW_CLAIM      9  /* a renewal changes an existing claim and never brings one back */
#define MARK_LAPSED     10  /* only a claim whose lease is over is marked as lapsed */
#define REAP_FENCES     11  /* the reaper reads the fences of the claim */
#define REAP_SNAPSHOT   12  /* the reaper reads them in a statement that begins after the claim was marked */
#define REAP_UNFENCED   13  /* a claim that promised no fences leaves its messages with Resend in doubt */
#define REAP_TOKEN      14  /* the reaper compares the token of a delivery when it has the row */
#define REAP_ORPHANS    15  /* the reaper takes back deliveries whose claim is gone */
#define REAP_UNKNOWN    16  /* such deliveries are in doubt */
#define SETTLE_TOKEN    17  /* an outcome changes a leased delivery only under its token */
#define SETTLE_DOUBT    18  /* a late outcome changes a delivery in doubt only under the token of that doubt */
#define SETTLE_UNKNOWN  19  /* an unknown outcome is recorded as a doubt */
#define DOUBT_KEPT      20  /* the reaper keeps the token of a doubt for the late outcome */
#define RESOLVE_POLICY  21  /* a doubt ends by itself only where the policy is Resend */
#define RESOLVE_RESEND  22  /* there it does end by itself */

byte without = WITHOUT;
#define LEFT_OUT(guard)         (without == guard)
#define GUARD(guard, condition) (LEFT_OUT(guard) || (condition))

/* Everything that goes wrong uses up one fault. So every run ends. */
byte faults = FAULTS;
inline fault() { faults > 0 -> faults-- }

#define RESEND(m) ((m) % 2 == 0)
#define BIT(m)    (1 << (m))

/* The database. A token is the number of its claim; 0 stands for NULL. */

mtype = { queued, sending, uncertain, sent, failed, closed } /* closed: a person resolved it as sent */

typedef Delivery {
	mtype state;
	byte lease;             /* lease_token */
	byte doubt;             /* doubt_token */
	/* Only the properties read the rest. */
	byte allowed;           /* copies that may still arrive */
	bit arrived;            /* a copy has arrived */
	byte from               /* the lapsed claim that left the present doubt */
}

typedef Claim {
	bit row;                /* the claim exists */
	bit holds;              /* lease_until is in the future */
	bit lapsed;             /* the mark of the reaper */
	bit fenced;             /* it promises a fence for each message */
	bit soft;               /* it is not on disk yet */
	byte fences             /* the deliveries that its fences name, a bit each */
}

Delivery d[MESSAGES];
Claim c[CLAIMS + 1];

/* The memory of the dispatchers: how far each message is under each claim. 0 stands for nothing. */

mtype = {
	held,                   /* claimed; is fenced before it is sent */
	bare,                   /* claimed; is sent without a fence */
	fencing,                /* the fence has locked the claim and is not committed */
	ready,                  /* the final dot may leave */
	accepted, refused, unsent, unknown /* an outcome waits to be recorded */
}

mtype job[(CLAIMS + 1) * MESSAGES];
#define JOB(t, m)           job[(t) * MESSAGES + (m)]

#if MESSAGES == 1
#define ANY(p, t)           p(t, 0)
#elif MESSAGES == 2
#define ANY(p, t)           (p(t, 0) || p(t, 1))
#else
#define ANY(p, t)           (p(t, 0) || p(t, 1) || p(t, 2))
#endif
#define IN_MEMORY(t, m)     (JOB(t, m) != 0)
#define IN_FENCE(t, m)      (JOB(t, m) == fencing)
#define IN_LEASE(t, m)      (d[m].lease == t)
#define IN_NAME(t, m)       (d[m].lease == t || d[m].doubt == t || d[m].from == t)
#define SOMEBODY_WORKS(t)   ANY(IN_MEMORY, t)
#define BEING_FENCED(t)     ANY(IN_FENCE, t)
#define HAS_DELIVERIES(t)   ANY(IN_LEASE, t)
#define FREE(t)             (!c[t].row && !SOMEBODY_WORKS(t) && !ANY(IN_NAME, t))
#if CLAIMS == 2
#define ANY_FREE            (FREE(1) || FREE(2))
#elif CLAIMS == 3
#define ANY_FREE            (FREE(1) || FREE(2) || FREE(3))
#else
#define ANY_FREE            (FREE(1) || FREE(2) || FREE(3) || FREE(4))
#endif

/* FOR UPDATE, without waiting. A fence has FOR KEY SHARE. */
#define CAN_LOCK(t)         (c[t].row && GUARD(FENCE_LOCK, !BEING_FENCED(t)))

hidden byte i, k, set;      /* for one step */

/* flush is what a commit does that waits for the disk: earlier commits are on disk, too. */
inline flush() { for (i : 1 .. CLAIMS) { c[i].soft = 0 } }

/* remove deletes a claim with its fences. */
inline remove(t)
{
	c[t].row = 0; c[t].holds = 0; c[t].lapsed = 0; c[t].fenced = 0; c[t].soft = 0; c[t].fences = 0
}

/* move changes the state of a delivery. A terminal state is never left. */
inline move(m, next)
{
	assert(d[m].state != sent && d[m].state != failed && d[m].state != closed);
	d[m].state = next; d[m].lease = 0; d[m].doubt = 0; d[m].from = 0
}

/* allow allows another copy to arrive, up to a number that no run without a fault of the protocol needs. */
inline allow(m, really)
{
	if
	:: really && d[m].allowed <= 2 * CLAIMS -> d[m].allowed++
	:: else
	fi
}

/* puzzle puts a delivery in doubt. The holder of the token may still know the outcome; 0 for nobody. */
inline puzzle(m, token)
{
	move(m, uncertain);
	allow(m, RESEND(m));
	d[m].from = token;
	d[m].doubt = (LEFT_OUT(DOUBT_KEPT) -> 0 : token)
}

/* arrive is the relay's acceptance. One copy may arrive, and one more for each doubt. With Hold it is one for each order of a person. */
inline arrive(m)
{
	assert(d[m].allowed > 0);
	d[m].allowed--;
	d[m].arrived = 1
}

/* Claim: queued → sending, under a fresh token. It takes the message m and any of those after it. */
proctype Claimer(byte m)
{
end:	do
	:: atomic { GUARD(CLAIM_QUEUED, d[m].state == queued) && ANY_FREE ->
		set = BIT(m);
		for (i : m + 1 .. MESSAGES - 1) {
			if
			:: d[i].state == queued -> set = set | BIT(i)
			:: true
			fi
		}
		k = 1;
		do
		:: !FREE(k) -> k++
		:: else -> break
		od;
		c[k].row = 1; c[k].holds = 1; c[k].lapsed = 0; c[k].fences = 0;
		if
		:: c[k].fenced = 1; c[k].soft = 1 /* the fences wait for the disk */
		:: c[k].fenced = 0; c[k].soft = LEFT_OUT(CLAIM_DURABLE)
		fi;
		for (i : 0 .. MESSAGES - 1) {
			if
			:: set & BIT(i) ->
				move(i, sending);
				d[i].lease = k;
				JOB(k, i) = (c[k].fenced || !RESEND(i) -> held : bare)
			:: else
			fi
		}
		if
		:: c[k].soft
		:: else -> flush()
		fi;
		printf("claim %d takes the messages %d, fences promised %d\n", k, set, c[k].fenced) }
	od
}

/* record adds a delivery to the fences of a claim. */
inline record(t, m)
{
	c[t].fences = c[t].fences | BIT(m);
	if
	:: LEFT_OUT(FENCE_DURABLE)
	:: else -> flush()
	fi
}

/* outcome moves a delivery by the outcome of a job. */
inline outcome(t, m)
{
	if
	:: JOB(t, m) == accepted -> move(m, sent)
	:: JOB(t, m) == refused -> move(m, failed)
	:: JOB(t, m) == unsent -> move(m, queued)
	:: JOB(t, m) == unknown && LEFT_OUT(SETTLE_UNKNOWN) -> move(m, queued)
	:: JOB(t, m) == unknown && !LEFT_OUT(SETTLE_UNKNOWN) ->
		if
		:: d[m].state == uncertain -> d[m].doubt = 0; d[m].from = 0 /* the same doubt: nobody will know more */
		:: else -> puzzle(m, 0)
		fi
	fi
}

/* settle records an outcome. One that comes after its lease settles the doubt that the lease left, while there is that doubt. */
inline settle(t, m)
{
	if
	:: d[m].state == sending && GUARD(SETTLE_TOKEN, d[m].lease == t) -> outcome(t, m)
	:: d[m].state == uncertain && GUARD(SETTLE_DOUBT, d[m].doubt == t) -> outcome(t, m)
	:: else -> assert(d[m].state != uncertain || d[m].from != t) /* no outcome is lost that would end the doubt */
	fi;
	/* The claim goes with its last delivery. */
	if
	:: CAN_LOCK(t) && !HAS_DELIVERIES(t) -> remove(t)
	:: CAN_LOCK(t) && !HAS_DELIVERIES(t) && faults > 0 -> faults-- /* another settlement was at it, and neither saw the end */
	:: else
	fi;
	flush()
}

/* A message under a claim, in the memory of the dispatcher that took it. */
proctype Job(byte t; byte m)
{
end:	do
	/* Fence, with FOR KEY SHARE on the claim. */
	:: atomic { JOB(t, m) == held ->
		if
		:: GUARD(FENCE_CLAIM, c[t].row && c[t].holds && GUARD(FENCE_LAPSED, !c[t].lapsed)) -> JOB(t, m) = fencing
		:: else -> JOB(t, m) = (LEFT_OUT(FENCE_REFUSED) -> ready : unsent)
		fi;
		printf("claim %d asks for the fence of message %d: %e\n", t, BIT(m), JOB(t, m)) }
	:: atomic { JOB(t, m) == fencing ->
		if
		:: record(t, m); JOB(t, m) = ready
		:: fault(); record(t, m); JOB(t, m) = unsent /* the answer is lost */
		:: fault(); JOB(t, m) = (LEFT_OUT(FENCE_ERROR) -> ready : unsent)
		fi;
		printf("claim %d has fenced %d; message %d: %e\n", t, c[t].fences, BIT(m), JOB(t, m)) }

	/* Without a fence the dispatcher asks its own clock. That may be wrong by any time, so nothing is asked here. */
	:: atomic { JOB(t, m) == bare -> JOB(t, m) = ready }

	/* The dispatcher hands back what it has not begun. */
	:: atomic { (JOB(t, m) == held || JOB(t, m) == bare) && faults > 0 -> faults--; JOB(t, m) = unsent }

	/* The final dot leaves, and the dispatcher hears the answer. */
	:: atomic { JOB(t, m) == ready ->
		if
		:: arrive(m); JOB(t, m) = accepted
		:: fault(); JOB(t, m) = refused /* for ever */
		:: fault(); JOB(t, m) = unsent /* for now */
		:: fault(); JOB(t, m) = unknown; arrive(m) /* the connection breaks after the relay has accepted */
		:: fault(); JOB(t, m) = unknown /* or before that */
		fi;
		printf("claim %d sends message %d: %e, arrived %d\n", t, BIT(m), JOB(t, m), d[m].arrived) }

	/* Settle. After an error the dispatcher tries again, whether the first call took effect or not. */
	:: atomic { JOB(t, m) == accepted || JOB(t, m) == refused || JOB(t, m) == unsent || JOB(t, m) == unknown ->
		settle(t, m);
		printf("claim %d settles message %d as %e: it is %e\n", t, BIT(m), JOB(t, m), d[m].state);
		if
		:: JOB(t, m) = 0
		:: fault()
		fi }

	/* Renew. It goes beside a fence. */
	:: atomic { JOB(t, m) != 0 && !c[t].holds && GUARD(RENEW_CLAIM, c[t].row && !c[t].lapsed) ->
		if
		:: !c[t].row -> c[t].fences = 0
		:: else
		fi;
		c[t].row = 1; c[t].holds = 1;
		printf("claim %d is renewed\n", t) }
	od
}

/* take takes a delivery back from a lapsed claim. */
inline take(t, m, named)
{
	if
	:: !c[t].row && !LEFT_OUT(REAP_UNKNOWN) -> puzzle(m, t)
	:: c[t].row && (named || (!c[t].fenced && RESEND(m) && !LEFT_OUT(REAP_UNFENCED))) -> puzzle(m, t)
	:: else -> move(m, queued)
	fi;
	printf("the reaper takes message %d from claim %d: it is %e\n", BIT(m), t, d[m].state);
	flush()
}

#define NAMED(t, m) ((c[t].fences & BIT(m)) && !LEFT_OUT(REAP_FENCES))

/* The reaper, for one message of a claim. Rows that somebody has locked are left for later, so it takes them back in any parts. */
proctype Reaper(byte t; byte m)
{
	bit early;              /* it has read the fences or the token too early */
	bit named;
end:	do
	/* The first statement marks the claim. It passes over a claim that is being fenced. */
	:: atomic { CAN_LOCK(t) && !c[t].lapsed && GUARD(MARK_LAPSED, !c[t].holds) ->
		c[t].lapsed = 1;
		printf("the reaper marks claim %d\n", t);
		flush() }

	/* The second statement takes the delivery back. */
	:: atomic { c[t].lapsed && d[m].lease == t && !LEFT_OUT(REAP_SNAPSHOT) -> take(t, m, NAMED(t, m)) }
	:: atomic { !c[t].row && d[m].lease == t && !LEFT_OUT(REAP_ORPHANS) -> take(t, m, 0) }

	/* The third removes the claim when it is empty. */
	:: atomic { c[t].lapsed && CAN_LOCK(t) && !HAS_DELIVERIES(t) -> remove(t); flush() }

	/* The second statement, if it read something earlier. */
	:: atomic { LEFT_OUT(REAP_SNAPSHOT) && d[m].lease == t && c[t].row && !c[t].holds && !early -> early = 1; named = NAMED(t, m) }
	:: atomic { LEFT_OUT(REAP_TOKEN) && d[m].lease == t && c[t].lapsed && !early -> early = 1; named = NAMED(t, m) }
	:: atomic { early && (LEFT_OUT(REAP_TOKEN) || (d[m].lease == t && c[t].lapsed)) ->
		if
		:: d[m].state == sending -> take(t, m, named)
		:: else
		fi;
		early = 0; named = 0 }
	od
}

/* What becomes of a doubt. Its delay may pass at any time. */
proctype Doubt(byte m)
{
end:	do
	:: atomic { d[m].state == uncertain && GUARD(RESOLVE_POLICY, RESEND(m)) && !LEFT_OUT(RESOLVE_RESEND) ->
		move(m, queued);
		printf("message %d is to be sent again\n", BIT(m));
		flush() }

	/* A person ends it. */
	:: atomic { d[m].state == uncertain && faults > 0 ->
		faults--;
		if
		:: move(m, queued); allow(m, !RESEND(m))
		:: move(m, closed)
		fi;
		printf("a person resolves message %d: it is %e\n", BIT(m), d[m].state);
		flush() }
	od
}

/* The rest of the world, for one claim. */
proctype World(byte t)
{
end:	do
	/* Time passes. A lease ends when nobody renews it. It also ends while its holder is paused, or because the clock jumps. */
	:: atomic { c[t].holds && !SOMEBODY_WORKS(t) -> c[t].holds = 0; printf("the lease of claim %d ends\n", t) }
	:: atomic { c[t].holds && SOMEBODY_WORKS(t) && faults > 0 ->
		faults--;
		c[t].holds = 0;
		printf("the lease of claim %d ends although somebody works under it\n", t) }

	/* The clock is set back. */
	:: atomic { c[t].row && !c[t].holds && faults > 0 ->
		faults--;
		c[t].holds = 1;
		printf("the clock is set back: the lease of claim %d holds again\n", t) }

	/* The dispatcher crashes. */
	:: atomic { SOMEBODY_WORKS(t) && faults > 0 ->
		faults--;
		printf("the dispatcher of claim %d crashes\n", t);
		for (i : 0 .. MESSAGES - 1) { JOB(t, i) = 0 } }

	/* The database crashes. What was not on disk has not happened, and connections break. */
	:: atomic { (c[t].soft || BEING_FENCED(t)) && faults > 0 ->
		faults--;
		printf("the database crashes\n");
		for (k : 1 .. CLAIMS) {
			for (i : 0 .. MESSAGES - 1) {
				if
				:: JOB(k, i) == fencing -> JOB(k, i) = unsent
				:: else
				fi;
				if
				:: c[k].soft && d[i].lease == k -> move(i, queued)
				:: else
				fi
			}
			if
			:: c[k].soft -> remove(k)
			:: else
			fi
		} }

	/* Somebody removes the claim by hand. */
	:: atomic { CAN_LOCK(t) && faults > 0 ->
		faults--;
		remove(t);
		printf("somebody removes claim %d\n", t);
		flush() }
	od
}

/* When nothing can happen any more, each message is terminal or waits for a person. A sent one has arrived. No claim is left. */
proctype End()
{
	timeout ->
	atomic {
		for (i : 0 .. MESSAGES - 1) {
			assert(d[i].state == sent || d[i].state == failed || d[i].state == closed || (d[i].state == uncertain && !RESEND(i)));
			assert(d[i].state != sent || d[i].arrived)
		}
		for (k : 1 .. CLAIMS) { assert(!c[k].row) }
	}
}

init
{
	atomic {
#ifdef SETTINGS
		/* The test builds one program and sets both by the environment. */
		c_code { now.without = atoi(getenv("WITHOUT")); now.faults = atoi(getenv("FAULTS")); };
#endif
		for (i : 0 .. MESSAGES - 1) {
			d[i].state = queued;
			d[i].allowed = 1;
			run Claimer(i);
			run Doubt(i)
		}
		for (k : 1 .. CLAIMS) {
			for (i : 0 .. MESSAGES - 1) { run Job(k, i); run Reaper(k, i) }
			run World(k)
		}
		run End()
	}
}
