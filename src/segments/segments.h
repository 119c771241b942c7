/*-------------------------------------------------------------------------
 *
 * segments.h
 *	  Compiled predicates, and who is in which segment.
 *
 * IDENTIFICATION
 *	  src/segments/segments.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_SEGMENTS_H
#define CDP_SEGMENTS_H

#include "compat.h"
#include "identity/identity.h"
#include "traits/traits.h"

/* From _PG_init: hooks. */
extern void CdpSegmentsInit(void);

typedef struct CdpSegment
{
	int32		id;				/* cdp.segment_definitions.id */
	char	   *name;
	char	   *channel;		/* NOTIFY channel */
	Bitmapset  *traits;			/* indexes of the traits that it reads */
	Bitmapset  *depends;		/* those, and what they and other segments are derived from */
	bool		clock;			/* compares with the clock: may change when a timer is due */
	bool		identity;		/* depends on the profile's identifiers */
	bool		primary;		/* depends on the profile's primary account */
	bool		hidden;			/* what is asked of members of accounts; nobody is told of it */
	struct CdpSegmentRules *rules;	/* private: compiled predicate, exit_when */
} CdpSegment;

typedef struct CdpSegmentSet
{
	int64		generation;
	int			nsegments;
	CdpSegment *segments;		/* ordered so that a segment follows those it refers to */
	MemoryContext context;
	bool		identity;		/* some segment depends on the profile's identifiers */
	bool		primary;		/* … and some one on the profile's primary account */
	Bitmapset  *of_primary;		/* which traits of accounts are read (indexes) … */
	struct CdpPrimaryTerms *primary_terms;	/* … and what for; NULL: not known yet */
	struct CdpSegmentColumns *columns;	/* private */
} CdpSegmentSet;

/* Enabled segments as of now; same life as the trait set that it was made for. */
extern CdpSegmentSet *CdpSegmentSetGet(int64 generation, CdpTraitSet *traits);
extern CdpSegment *CdpSegmentById(CdpSegmentSet *set, int32 id);
/* The same of one that is not evaluated, too. */
extern CdpSegment *CdpSegmentNamed(CdpSegmentSet *set, int32 id);
/* Does a profile with these values consent to the segment's purpose, if it has one? */
extern bool CdpSegmentConsents(const CdpSegment *segment, const CdpProfileValues *values);

/*
 * One profile to evaluate.  values.next comes in as the instant at which a
 * trait changes by itself and goes out as the instant at which a trait or a
 * membership of the segments that were evaluated does.
 */
typedef struct CdpProfileEval
{
	int64		profile_id;
	CdpProfileValues values;
	/*
	 * When it is known what has changed since the profile's memberships were
	 * last evaluated, those traits (indexes): a segment that depends on none of
	 * them is passed over, and values.next does not know of it.
	 */
	bool		known;
	Bitmapset  *changed;
	int			nidentifiers;	/* needed when set->identity */
	CdpIdentifier **identifiers;
	const CdpProfileValues *primary;	/* needed when set->primary; NULL: no account */
	CdpAccountRow *account;		/* whose values those are, from CdpPrimaryAccounts */
	int			nbefore;
	int32	   *before;			/* ids of the segments that it is in, ascending */
	int			nafter;			/* out */
	int32	   *after;			/* out, ascending, palloc'd */
} CdpProfileEval;

/*
 * Evaluate all segments for n profiles as of now.  An error in one predicate
 * for one profile leaves that profile out of that segment, is counted in
 * cdp.segment_errors, and stops nobody else.
 */
extern void CdpSegmentsEvaluate(CdpSegmentSet *set, CdpTraitSet *traits,
								CdpProfileEval *profiles, int n, TimestampTz now);

/*
 * As CdpSegmentsEvaluate for the segments in "only" (columns, see
 * CdpSegmentColumnByName; NULL: all) and those that they refer to; record:
 * count errors in cdp.segment_errors.
 */
extern void CdpSegmentsEvaluateSome(CdpSegmentSet *set, CdpProfileEval *profiles, int n,
									TimestampTz now, const Bitmapset *only, bool record);

/*
 * As CdpSegmentsEvaluate, in two parts: accounts are evaluated when the traits
 * of their members are known, and what depends on accounts only then.
 */
typedef enum CdpSegmentsPart
{
	CDP_SEGMENTS_ALL,
	CDP_SEGMENTS_BEFORE_ACCOUNTS,
	CDP_SEGMENTS_AFTER_ACCOUNTS
} CdpSegmentsPart;

extern void CdpSegmentsEvaluatePart(CdpSegmentSet *set, CdpProfileEval *profiles, int n,
									TimestampTz now, CdpSegmentsPart part);
/*
 * What these segments of profiles make of an account with these values, as one
 * number; 0 when they read no traits of accounts.
 */
extern int64 CdpPrimaryHash(CdpSegmentSet *set, CdpTraitSet *accounts,
							const CdpProfileValues *values);

/*
 * Fill in the values of primary accounts as of now; members: see CdpAccountsRead.
 * Runs SQL: inside SPI_connect and CdpBecomeOwner.
 */
extern void CdpPrimaryAccounts(int64 generation, CdpProfileEval *profiles, int n,
							   TimestampTz now, CdpMembersNowFunction members);
/* The same of one profile, for reads: outside of both. */
extern void CdpPrimaryAccountRead(int64 generation, CdpProfileEval *profile, TimestampTz now);

/*
 * What a definition has come to, for the call that made it: members, and how
 * many of them entered and left.
 */
extern void CdpSegmentTold(int32 id, int64 members, int64 entered, int64 exited);

/*
 * Does it wait for the back-fill of what it reads, or for its own?  Then it is
 * not evaluated, and keeps the members that it has.
 */
extern bool CdpSegmentWaits(const CdpSegmentSet *set, int column);
/* version.c: put what it is to be in its place, or forget that. */
extern void CdpSegmentVersionSwitch(int32 id);
extern bool CdpSegmentVersionDrop(int32 id);
/* unnamed.c: drop hidden segments and traits that nobody needs any more. */
extern void CdpSegmentsUnnamedPrune(void);
/* definition.c: the enabled segments whose members may change with a trait. */
extern List *CdpSegmentsOfTrait(int32 trait_id);
/* All segments have columns, disabled ones too.  -1: unknown. */
extern int	CdpSegmentColumn(const CdpSegmentSet *set, int32 id);
/* Error: there is none of that name; with the one that may be meant. */
pg_noreturn extern void CdpSegmentMissing(const char *name);
extern int	CdpSegmentColumnByName(const CdpSegmentSet *set, const char *name);
extern const char *CdpSegmentName(const CdpSegmentSet *set, int32 id);	/* NULL: unknown */

/* ---- segments/read.c: a profile's nodes, for calls that read ---- */

typedef struct CdpProfileNode
{
	int64		node_id;
	CdpIdentifier *identifier;
	TimestampTz first_seen;
	TimestampTz last_seen;
} CdpProfileNode;

typedef struct CdpProfileNodes
{
	int64		profile_id;
	int			nnodes;
	CdpProfileNode    *nodes;
	CdpNodeAcc **accs;			/* their states, parallel to nodes */
	int			nsegments;
	int32	   *segments;		/* ids of the segments that it is stored to be in */
} CdpProfileNodes;

/* False when there is no such profile.  Uses the active snapshot. */
extern bool CdpProfileRead(int64 profile_id, CdpTraitSet *traits, CdpProfileNodes *out);
/* Its identifiers, for CdpProfileEval. */
extern CdpIdentifier **CdpProfileIdentifiers(const CdpProfileNodes *nodes);

/* ---- segments/members_now.c: what members contribute to their accounts ---- */

extern struct NumericData *CdpMemberContributes(CdpTraitSet *traits, int32 member_trait,
												const CdpProfileValues *values,
												const int32 *segments, int nsegments);
/* CdpMembersNowFunction, for calls that read. */
extern CdpMembersNow *CdpMembersNowRead(CdpTraitSet *accounts, const int64 *ids, int n,
										TimestampTz now);

#endif							/* CDP_SEGMENTS_H */
