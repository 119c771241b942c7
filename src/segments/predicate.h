/*-------------------------------------------------------------------------
 *
 * predicate.h
 *	  Private to src/segments: compiled predicates and what the files of the
 *	  station share.
 *
 *	  A compiled predicate reads two rows.  Var (1, n) is the value of the
 *	  trait with index n - 1.  Var (INNER_VAR, n) is whether the profile is in
 *	  the segment in column n - 1 of the set; segments are evaluated in an
 *	  order in which a segment follows those that it refers to.  Var (OUTER_VAR,
 *	  n) is what else an evaluation knows: the instant, and who it is about.
 *
 * IDENTIFICATION
 *	  src/segments/predicate.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef CDP_PREDICATE_H
#define CDP_PREDICATE_H

#include "postgres.h"

#include "nodes/execnodes.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"
#include "utils/array.h"
#include "utils/jsonb.h"

#include "segments/segments.h"
#include "traits/consent.h"

/* Longest name of a segment; with its prefix a channel is 63 bytes at most. */
#define CDP_SEGMENT_NAME_MAX	51
#define CDP_SEGMENT_CHANNEL		"cdp_segment_"

StaticAssertDecl(CDP_SEGMENT_NAME_MAX + sizeof(CDP_SEGMENT_CHANNEL) <= NAMEDATALEN,
				 "a channel must fit in a name");

/* ---- canonical.c: the text ---- */

/* Longest text of a predicate. */
#define CDP_PREDICATE_MAX	1048576

/* Hidden traits that one text may ask for. */
#define CDP_MAX_TERMS		1000

/*
 * Hidden columns: a control character that nobody can write in a name, and
 * what it is: a term's number, or one of these.
 */
#define CDP_HIDDEN_MARK		'\001'
#define CDP_HIDDEN_NOW		'N' /* now() */
#define CDP_HIDDEN_DATE		'D' /* current_date */
#define CDP_HIDDEN_LOCAL	'L' /* localtimestamp */
#define CDP_HIDDEN_KINDS	'K' /* kinds of the profile's identifiers */
#define CDP_HIDDEN_KNOWN	'W' /* is one of them a person's? */
#define CDP_HIDDEN_ACCOUNT	'A' /* and a name: a trait of the primary account */
/* What stands before the name of such a trait in texts and in trait_names. */
#define CDP_ACCOUNT_PREFIX	"account."
#define CDP_HIDDEN_PURPOSE	'C' /* followed by a purpose: granted, denied or NULL */

/* The kind of an account that is named by its value alone. */
#define CDP_ACCOUNT_KIND		"group_id"

/* What an evaluation knows beside traits and segments, by column. */
#define CDP_ENV_NOW			1
#define CDP_ENV_KINDS		2
#define CDP_ENV_KNOWN		3
#define CDP_ENV_N			3	/* traits of accounts follow */

/* Kinds of this priority and above are of devices and browsers, not of persons. */
#define CDP_DEVICE_PRIORITY	11

/* The raw tree of a text, with hidden columns for CURRENT_DATE and its like. */
extern Node *CdpPredicateParse(const char *text);
/* The canonical form of a text that CdpPredicateParse has read. */
extern char *CdpPredicateCanonical(const char *text);
/*
 * Where the arguments of the call that begins at a place of the text begin, and
 * where its closing parenthesis is.
 */
extern void CdpPredicateCallSpan(const char *text, int location, int *begin, int *end);
/* The parts of a canonical text (char *) that are joined by OR (*any) or AND. */
extern List *CdpPredicateConditions(const char *text, bool *any);
extern char *CdpPredicateInParentheses(const char *text);
/* Canonical form, with all checks of cdp.predicate's input. */
extern char *CdpPredicateFromText(const char *text);

/* ---- vocabulary.c: did(), count_of(), in_segment() … ---- */

typedef enum CdpTermKind
{
	CDP_TERM_TRAIT,				/* a hidden trait: how often did it happen … */
	CDP_TERM_SEGMENT,			/* membership in another segment */
	CDP_TERM_KIND				/* a kind of identifiers: needs no trait */
} CdpTermKind;

/* The longest window that there is: from the beginning to now. */
#define CDP_EVER			"1000 years"

/* What a vocabulary call needs to know, in the order of the calls in the text. */
typedef struct CdpTerm
{
	CdpTermKind kind;
	int			number;			/* from 0 */
	char	   *word;			/* as written: did, did_not, count_of, in_segment … */
	int			location;		/* of the call in the text */
	int			name_location;	/* of the constant that names event, segment or kind */
	char	   *name;			/* event, segment, kind */
	CdpAggregate aggregate;
	char	   *value;			/* canonical; NULL: none */
	char	   *within;			/* NULL: ever */
	char	   *filter;			/* canonical; NULL: none, or not asked for */
	bool		of_calls;		/* of identify calls: name is that of a declared trait */
	bool		of_account;		/* of entries that name the account */
	bool		over_members;	/* counts members of an account … */
	char	   *members;		/* … for whom this is true, see of_members.c; NULL: all */
	int			in_segment;		/* … who are in the segment of that term; -1: none */
	bool		of_member;		/* part of such a predicate: about a profile */
	bool		unnamed;		/* a segment without a name; name: its predicate */
	int32		id;				/* hidden trait or segment; 0: neither */
} CdpTerm;

/*
 * Replaces every vocabulary call in a raw tree by an expression over hidden
 * columns and returns the terms.  The columns are numbered like the terms
 * from 0; CdpHiddenColumn tells whether a column name is one.  With
 * timezone = NULL expressions over entries are passed over, not checked and
 * not canonicalised, and no catalog is read.
 */
extern List *CdpVocabularyReplace(Node *raw, const char *text, const char *timezone);
extern int	CdpHiddenColumn(const char *name);
extern bool CdpVocabularyWord(const FuncCall *call);
extern bool CdpVocabularyCall(const FuncCall *call);
extern char *CdpTermText(const CdpTerm *term);
extern int	CdpPredicateErrorPosition(const char *text, int location);

/* ---- sequence.c: did_in_order ---- */

#define CDP_MAX_STEPS		10


extern char *CdpSequenceRules(int nsteps, bool then_not, const char *within,
							  const char *newer);
/* A part of a hidden trait's rules that is an interval; NULL when it is empty. */
extern Interval *CdpIntervalFromRules(const char *string);

/* ---- changed.c: changed ---- */

extern char *CdpChangedConstant(const Node *node);
extern char *CdpChangedRules(const char *newer, const char *older, int at_least,
							 const char *from, const char *to);

/* ---- of_members.c: predicates about the members of an account ---- */

/* A call of the vocabulary in such a predicate, and what it has become. */
typedef struct CdpMemberCall
{
	int			location;
	Node	   *node;
} CdpMemberCall;

extern bool CdpMembersOfSegment(const Node *predicate);
extern void CdpMembersSegmentBuilt(const CdpTerm *term, const char *text);
extern bool CdpMembersNeedSegment(const char *members, Node *predicate, const char *text,
								  List **segments);
extern char *CdpMembersText(const char *text, int location, const List *calls,
							char **predicate);
extern char *CdpMembersFilter(const char *members, const List *terms);

/* ---- unnamed.c: segments that stand for what is asked of members ---- */

/*
 * The hidden segment of the current user that says this, made if there is none.
 * *read: the traits that it reads.
 */
extern int32 CdpSegmentUnnamed(const char *predicate, const char *timezone, List **read);
/* Those that a segment refers to. */
extern List *CdpSegmentsUnnamedOf(int32 id);

/* ---- clock.c: comparisons with now() ---- */

extern Expr *CdpClockRewrite(Expr *expr, const char *text, bool *used);
/* The earliest instant at which a comparison that was evaluated since changes. */
extern void CdpClockReset(void);
extern TimestampTz CdpClockNoted(void);
/*
 * For who remembers a result: the earliest instant noted since the call before,
 * or the one given to that if it is earlier.
 */
extern TimestampTz CdpClockWatch(TimestampTz since);
/* An evaluation as of now changes at that instant. */
extern void CdpClockNote(TimestampTz now, TimestampTz at);

/* ---- predicate.c: text to expression ---- */

typedef struct CdpPredicate
{
	Expr	   *expr;			/* NULL when the text is NULL */
	Expr	   *shared;			/* in a set: with its shared terms replaced */
	Bitmapset  *traits;			/* indexes of the traits that it reads */
	Bitmapset  *segments;		/* columns of the segments that it refers to */
	bool		pinned;			/* depends on TimeZone, DateStyle … */
	bool		safe;			/* cannot raise an error, whatever the values */
	bool		clock;			/* compares with the instant of evaluation */
	bool		identity;		/* asks for the profile's identifiers */
	Bitmapset  *of_primary;		/* indexes of traits of the primary account */
} CdpPredicate;

/* What a definition's texts refer to, as stored beside them. */
typedef struct CdpReferences
{
	bool		accounts;		/* the text is about accounts, not profiles */
	int			nterms;
	int32	   *terms;			/* ids of hidden traits and segments, by term */
	int			nnames;
	char	  **names;			/* column names in the text … */
	int32	   *traits;			/* … and the ids of the traits that they meant */
	List	   *trait_ids;		/* all traits, hidden ones too; only when defining */
	List	   *segment_ids;	/* segments referred to; only when defining */
} CdpReferences;

/*
 * Check a new text and make the traits that it needs.  Adds to references and
 * to *created (ids of traits that are new).
 */
extern void CdpPredicateDefine(const char *text, const char *timezone, const char *what,
							   CdpReferences *references, List **created);

/*
 * The same for a read: traits that do not exist are not made, their
 * definitions (struct CdpDefinition *) are added to *transient.
 */
extern void CdpPredicateProbe(const char *text, const char *timezone, const char *what,
							  CdpTraitSet *traits, CdpReferences *references,
							  List **transient);

/*
 * Compile a text whose references are known, starting with term *next_term,
 * which is advanced.  columns: ids of the set's segments by column.
 */
extern void CdpPredicateCompile(const char *text, const char *timezone, const char *what,
								const CdpReferences *references, int *next_term,
								CdpTraitSet *traits, const int32 *columns, int ncolumns,
								CdpPredicate *out);

/* The hidden column of a purpose. */
extern char *CdpPurposeColumn(const char *purpose);
/* A segment's purpose: its trait is one of those that the segment reads. */
extern void CdpPurposeRefer(const char *purpose, CdpReferences *references);
/* The index of that trait, -1: there is none. */
extern int	CdpPurposeReferred(const char *purpose, const CdpReferences *references,
							   CdpTraitSet *traits);

/* The rows from which an expression reads. */
typedef struct CdpPredicateSlots
{
	TupleTableSlot *traits;
	TupleTableSlot *members;
	TupleTableSlot *environment;
	Datum	   *values;			/* of the environment */
	bool	   *isnull;
	int			ntraits;		/* of accounts, for predicates about profiles */
	ExprContext *econtext;
} CdpPredicateSlots;

/* A segment's id; error with a hint when there is none of that name. */
extern int32 CdpSegmentIdByName(const char *name);
/* The same for one of profiles, or accounts, and no other. */
extern int32 CdpSegmentIdOfEntity(const char *name, bool accounts);

/* ---- set.c: all definitions of a generation ---- */

struct CdpSegmentRules
{
	int			column;			/* position among all segments of the set */
	char	   *owner;			/* role name */
	char	   *timezone;
	char	   *predicate_text;
	char	   *exit_text;
	CdpReferences references;
	CdpPredicate predicate;
	CdpPredicate exit_when;
	int			nexclude;
	int32	   *exclude;		/* ids */
	Bitmapset  *excluded;		/* their columns */
	double		holdout;		/* 0: nobody is held out */
	char	   *seed;
	char	   *purpose;		/* to which members consent; NULL: none */
	int			consent;		/* the trait that it is (index), -1: unknown */

	/* evaluate.c */
	Oid			owner_oid;		/* whose expression states these are */
	MemoryContext state_context;
	Oid			role;			/* owner at the last look */
	ExprState  *predicate_state;	/* NULL: not initialised */
	ExprState  *exit_state;
	bool		warned;			/* of a missing owner */
};
typedef struct CdpSegmentRules CdpSegmentRules;

/*
 * All segments, disabled and broken ones too: those keep the memberships that
 * they have and can be referred to.
 */
struct CdpSegmentColumns
{
	int			n;
	int32	   *ids;			/* by column, ascending */
	char	  **names;			/* by column */
	int		   *position;		/* by column: in set->segments; -1: not evaluated */
	char	  **broken;			/* by column: why it could not be compiled, or NULL */
	bool		told;			/* broken ones are recorded */
	bool	   *waiting;		/* by column: for the back-fill of what it reads, or its own */
	CdpSegment **segments;		/* by column, those that are not evaluated too */
	Bitmapset  *purposed;		/* columns of those that have a purpose */
	CdpPredicateSlots *slots;
	struct CdpSharedTerms *terms;
};
typedef struct CdpSegmentColumns CdpSegmentColumns;

/* ---- shared.c: terms that segments have in common ---- */

typedef struct CdpSharedTerms CdpSharedTerms;

/* Find those of a set of which at most "chunk" profiles are evaluated at a time. */
extern void CdpSharedTermsFind(CdpSegmentSet *set, int chunk);
/* Evaluation: of a chunk, of a profile in it. */
extern void CdpSharedTermsBegin(CdpSharedTerms *terms, int nprofiles);
extern void CdpSharedTermsProfile(CdpSharedTerms *terms, int profile);

/*
 * Error when the predicate reads a trait or refers to a segment that is being
 * built: it would be evaluated on a part of the history.
 */
extern void CdpPredicateCheckBuilt(const CdpPredicate *predicate, const CdpTraitSet *traits,
								   const CdpSegmentSet *segments);

/* ---- definition.c: rows of cdp.segment_definitions ---- */

/* A definition as written. */
typedef struct CdpSegmentDefinition
{
	int32		id;				/* 0: not stored yet */
	char	   *name;
	char	   *predicate;
	char	   *exit_when;		/* NULL: none */
	char	   *timezone;
	char	   *description;	/* NULL: none */
	List	   *exclude;		/* ids of segments */
	double		holdout;
	char	   *seed;
	Jsonb	   *options;
	char	   *owner;
	bool		enabled;
	int			version;		/* as stored */
	bool		accounts;		/* of accounts, not of profiles */
} CdpSegmentDefinition;

extern char *CdpSegmentNameById(int32 id);
extern Datum CdpListDatum(const List *list);
extern Datum CdpTextsDatum(char **texts, int n);
extern bool CdpSegmentDefinitionRead(const char *name, CdpSegmentDefinition *out);
extern void CdpSegmentDefinitionWrite(CdpSegmentDefinition *definition,
									  const CdpReferences *references);
/*
 * define.c: check and store one, then let history decide who is in it; tell who
 * has asked for it when that takes time.
 */
extern void CdpSegmentStore(CdpSegmentDefinition *definition, bool tell);

/* ---- version.c: what a segment is to be when history is folded ---- */
extern bool CdpSegmentVersionNeeded(const CdpReferences *references, const List *created);
extern void CdpSegmentVersionKeep(const CdpSegmentDefinition *definition,
								  const CdpReferences *references);
extern bool CdpSegmentVersionRead(CdpSegmentDefinition *definition);

/* ---- definition.c ---- */
/* Refuse a definition that would refer to itself. */
extern void CdpSegmentCycleCheck(const CdpSegmentDefinition *definition,
								 const CdpReferences *references);
/* of_members.c: … or a segment of accounts that would follow from accounts. */
extern void CdpMembersSegmentCheck(const CdpSegmentDefinition *definition,
								   const CdpReferences *references);
/* A segment's id first, then those of all that refer to it, directly or not. */
extern List *CdpSegmentDependents(int32 id);
extern char *CdpSegmentAsking(int32 id);
/* Integers, the first column of a query about a segment, run as the owner. */
extern List *CdpSegmentIntegers(const char *sql, int32 id);
/* define.c: a segment is no more. */
extern void CdpSegmentForget(int32 id);
/* rename.c: write the new name of a segment in the texts of those who refer to it */
extern void CdpSegmentRenameIn(int32 id, const char *old, const char *new);
/* Enabled segments whose members may change with a trait. */
/*
 * Run a statement with a segment's id as $1 and, when not NULL, a text as $2;
 * the number of rows.
 */
extern uint64 CdpSegmentsExecute(const char *sql, int32 id, const char *string);

/* ---- define.c ---- */

/* Check the texts of a definition as its owner. */
extern void CdpSegmentTextsDefine(const CdpSegmentDefinition *definition,
								  CdpReferences *references, List **created);
extern bool CdpSegmentOfAccounts(const char *entity);
extern void CdpSegmentCheckTimezone(const char *timezone);
extern double CdpSegmentCheckHoldout(double holdout);
/* The purpose in a segment's options; NULL: none. */
extern char *CdpSegmentPurpose(const Jsonb *options);
/* Ids of segments by their names, in order. */
extern List *CdpSegmentIds(ArrayType *names, bool accounts);

/* ---- environment.c: the rows from which predicates read ---- */

extern CdpPredicateSlots *CdpPredicateSlotsMake(CdpTraitSet *traits, int nsegments);
extern void CdpEnvironmentInstant(CdpPredicateSlots *slots, TimestampTz now);
extern void CdpEnvironmentIdentity(CdpPredicateSlots *slots, int64 generation,
								   CdpIdentifier **identifiers, int nidentifiers);
extern void CdpEnvironmentPrimary(CdpPredicateSlots *slots, const CdpProfileValues *values);
/* The column of the environment with that code; NULL: none. */
extern Node *CdpEnvironmentColumn(char code, int location);
/*
 * Value of one initialised expression for one profile, as the current user.
 * member: by column; never_null: as many falses.
 */
extern bool CdpPredicateValue(CdpPredicateSlots *slots, ExprState *state,
							  const CdpProfileValues *values, Datum *member,
							  bool *never_null, bool *isnull);

/* ---- evaluate.c ---- */

/* Profiles that are evaluated at a time, segment by segment. */
#define CDP_EVALUATION_CHUNK	512

/*
 * Is a profile in the segment, given whether it was?  isnull is set when the
 * predicate was asked.
 */
extern bool CdpSegmentHolds(const CdpSegmentRules *rules, CdpPredicateSlots *slots,
							int64 profile_id, const CdpProfileValues *values, Datum *member,
							bool *never_null, bool was, bool *isnull);
/* Is the profile one of those that the segment holds out? */
extern bool CdpHeldOut(const CdpSegmentRules *rules, int64 profile_id);

/* Errors that concern one predicate only; others must be raised again. */
extern bool CdpErrorIsLocal(int sqlerrcode);

#endif							/* CDP_PREDICATE_H */
