/* What follows a loop, in the plain case: nothing does but the current task.
 *
 * The text is Following.detach and attach (following/following.py).  Each condition here is one of theirs, and whatever is
 * not plain is left to them, before anything has changed.
 */
#include "core.h"

/* What this needs of the Python code beside it (following_know). */
static PyObject *current_tasks, *tasks, *region_away, *gettrace, *getprofile, *slow_detach, *slow_attach;

static PyObject *worn_name, *values_name, *thread_id_name, *send_queued_name, *self_name, *sniffio_name;
static PyObject *thread_local_name, *name_name;
static PyObject *with_step; /* ("with_step",) */

/* What a detach or an attach is about.  All references are borrowed of the caller. */
typedef struct {
    FollowingFields *following;
    MarksFields *marks;
    TracersFields *tracers;
    LwpFields *lwp;
    LuggageFields *luggage;
    bool with_step;
} Follows;

/* ---------------------------------------------------------------- conditions
 *
 * 1 if so, 0 if not, -1 with an exception.
 */

static int says_none(PyObject *function)
{
    PyObject *result = PyObject_CallNoArgs(function);
    Py_XDECREF(result);
    return result == NULL ? -1 : result == Py_None;
}

/* Whether the loop has no tracer and no profiler, and the calling thread has none, either. */
static int is_untraced(const Follows *follows)
{
    if (follows->tracers->tracer != Py_None || follows->tracers->profiler != Py_None)
        return 0;
    int is = says_none(gettrace);
    return is > 0 ? says_none(getprofile) : is;
}

/* Whether the thread had none when it gave the loop up the last time: Luggage.tracers is (None, None). */
static bool was_untraced(const Follows *follows)
{
    PyObject *known = follows->luggage->tracers;
    return known != NULL && PyTuple_Check(known) && PyTuple_GET_SIZE(known) == 2 &&
           PyTuple_GET_ITEM(known, 0) == Py_None && PyTuple_GET_ITEM(known, 1) == Py_None;
}

/* Whether the LWP's step is one of a task. */
static int is_step_of_task(LwpFields *lwp)
{
    Handle *handle = lwp->handle == NULL || fd_fields_of(lwp->handle) != NULL ? NULL : handle_of(lwp->handle);
    if (handle == NULL || handle->callback == NULL)
        return 0;
    PyObject *owner = PyObject_GetAttr(handle->callback, self_name);
    if (owner == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    int is = PySequence_Contains(tasks, (PyObject *)Py_TYPE(owner));
    Py_DECREF(owner);
    return is;
}

/* Whether the thread-locals have no mark of a step that has left (following/marks.py). */
static int is_unmarked(void)
{
    PyObject *module = PyImport_GetModule(sniffio_name);
    PyObject *local = module == NULL ? NULL : PyObject_GetAttr(module, thread_local_name);
    int is = local == NULL ? 0 : is_attribute(local, name_name, Py_None);
    if (is <= 0 && PyErr_Occurred() != NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* it is being imported */
        is = 0;
    }
    Py_XDECREF(local);
    Py_XDECREF(module);
    return PyErr_Occurred() != NULL ? -1 : is;
}

/* ---------------------------------------------------------------- detach */

static int detaches_plainly(const Follows *follows)
{
    if (!was_untraced(follows))
        return 0;
    int is = is_untraced(follows);
    if (is <= 0 || !follows->with_step)
        return is;
    return PyDict_GET_SIZE(follows->following->held) > 0 ? 0 : is_step_of_task(follows->lwp);
}

/* Its task is the loop's current one no longer, and what marks of it there are will be looked for. */
static int put_down(const Follows *follows)
{
    PyObject *loop = follows->following->loop;
    if (drop(PyObject_CallMethodNoArgs(loop, send_queued_name)) < 0)
        return -1;
    if (follows->following->values != Py_None) {
        int is_imported = PyDict_Contains(PyImport_GetModuleDict(), sniffio_name);
        if (is_imported < 0)
            return -1;
        if (is_imported)
            Py_XSETREF(follows->marks->leaver, Py_NewRef(follows->lwp));
    }
    PyObject *task = PyDict_GetItemWithError(current_tasks, loop); /* borrowed */
    if (task == NULL)
        return PyErr_Occurred() != NULL ? -1 : 0;
    Py_XSETREF(follows->luggage->task, Py_NewRef(task));
    return PyDict_DelItem(current_tasks, loop);
}

/* ---------------------------------------------------------------- attach */

int following_has_dressed(FollowingFields *following, LwpFields *lwp, LuggageFields *luggage)
{
    if (((RecordFields *)lwp->carrying)->home == (PyObject *)lwp)
        return 1;
    return is_attribute(luggage->wardrobe, worn_name, following->values);
}

static int attaches_plainly(const Follows *follows)
{
    MarksFields *marks = follows->marks;
    if (PyDict_GET_SIZE(follows->following->held) > 0 || PyList_GET_SIZE(follows->tracers->untold) > 0)
        return 0;
    if (follows->with_step && (PyDict_GET_SIZE(follows->following->away) > 0 || PyDict_GET_SIZE(marks->kept) > 0))
        return 0;
    int is = is_attribute(follows->following->attributes, values_name, follows->luggage->attributes);
    if (is > 0 && follows->lwp->handle == Py_None)
        is = following_has_dressed(follows->following, follows->lwp, follows->luggage);
    if (is > 0)
        is = is_untraced(follows);
    if (is > 0 && marks->leaver != Py_None && marks->leaver != (PyObject *)follows->lwp)
        is = follows->lwp->region == region_away ? 0 : is_unmarked();
    return is;
}

static int pick_up(const Follows *follows)
{
    FollowingFields *following = follows->following;
    LuggageFields *luggage = follows->luggage;
    Py_XSETREF(follows->marks->leaver, Py_NewRef(Py_None));
    PyObject *identity = PyLong_FromUnsignedLong(luggage->identity);
    int done = identity == NULL ? -1 : PyObject_SetAttr(following->loop, thread_id_name, identity);
    Py_XDECREF(identity);
    if (done < 0)
        return -1;
    if (((RecordFields *)follows->lwp->carrying)->unseen && drop(PyObject_CallNoArgs(following->look)) < 0)
        return -1;
    if (!follows->with_step || luggage->task == Py_None)
        return 0;
    if (PyDict_SetItem(current_tasks, following->loop, luggage->task) < 0)
        return -1;
    Py_SETREF(luggage->task, Py_NewRef(Py_None));
    return 0;
}

/* ---------------------------------------------------------------- for Python */

/* Whether they are what they are as a rule: the objects of the calling thread, with all that is looked at.  If not, the Python
 * code says what it thinks of them. */
static bool are_usual(Follows *follows)
{
    FollowingFields *following = follows->following;
    LwpFields *lwp = follows->lwp;
    follows->luggage = luggage_of(lwp);
    if (lwp->ident != PyThread_get_thread_ident() || follows->luggage == NULL || lwp->handle == NULL ||
        lwp->carrying == NULL || !PyObject_TypeCheck(lwp->carrying, record_fields_type))
        return false;
    if (following->loop == NULL || following->look == NULL || following->values == NULL ||
        following->attributes == NULL || following->held == NULL || !PyDict_Check(following->held) ||
        following->away == NULL || !PyDict_Check(following->away) || following->marks == NULL ||
        !PyObject_TypeCheck(following->marks, marks_fields_type) || following->tracers == NULL ||
        !PyObject_TypeCheck(following->tracers, tracers_fields_type))
        return false;
    follows->marks = (MarksFields *)following->marks;
    follows->tracers = (TracersFields *)following->tracers;
    return follows->marks->leaver != NULL && follows->marks->kept != NULL && PyDict_Check(follows->marks->kept) &&
           follows->tracers->untold != NULL && PyList_Check(follows->tracers->untold);
}

bool is_following(PyObject *luggage)
{
    return slow_attach != NULL && PyObject_TypeCheck(luggage, following_fields_type);
}

/* The Python code does it. */
static int leave_to(PyObject *function, Follows *follows)
{
    PyObject *with = follows->with_step ? Py_True : Py_False;
    PyObject *args[] = {(PyObject *)follows->following, (PyObject *)follows->lwp, with};
    return drop(PyObject_Vectorcall(function, args, 2, with_step));
}

int following_detach(PyObject *following, LwpFields *lwp, bool has_step)
{
    Follows follows = {.following = (FollowingFields *)following, .lwp = lwp, .with_step = has_step};
    int is = are_usual(&follows) ? detaches_plainly(&follows) : 0;
    if (is > 0)
        return has_step ? put_down(&follows) : 0;
    return is == 0 ? leave_to(slow_detach, &follows) : -1;
}

int following_attach(PyObject *following, LwpFields *lwp, bool has_step)
{
    Follows follows = {.following = (FollowingFields *)following, .lwp = lwp, .with_step = has_step};
    int is = are_usual(&follows) ? attaches_plainly(&follows) : 0;
    if (is > 0)
        return pick_up(&follows);
    return is == 0 ? leave_to(slow_attach, &follows) : -1;
}

/* The arguments are (following, lwp, *, with_step).  If not, the Python code says what it thinks of them. */
static bool are_ours(PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return count == 2 && PyObject_TypeCheck(args[0], following_fields_type) &&
           PyObject_TypeCheck(args[1], lwp_fields_type) && names != NULL && PyTuple_GET_SIZE(names) == 1 &&
           PyUnicode_Compare(PyTuple_GET_ITEM(names, 0), PyTuple_GET_ITEM(with_step, 0)) == 0 && PyBool_Check(args[2]);
}

static PyObject *detach(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    if (!are_ours(args, count, names))
        return PyObject_Vectorcall(slow_detach, args, (size_t)count, names);
    return following_detach(args[0], (LwpFields *)args[1], args[2] == Py_True) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *attach(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    if (!are_ours(args, count, names))
        return PyObject_Vectorcall(slow_attach, args, (size_t)count, names);
    return following_attach(args[0], (LwpFields *)args[1], args[2] == Py_True) < 0 ? NULL : Py_NewRef(Py_None);
}

/* following_know(current_tasks, tasks, away, gettrace, getprofile, detach, attach) */
static PyObject *following_know(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject **const slots[] = {&current_tasks, &tasks,       &region_away, &gettrace,
                                &getprofile,    &slow_detach, &slow_attach};
    enum { COUNT = sizeof slots / sizeof *slots };
    PyObject *known[COUNT];
    if (!PyArg_ParseTuple(args, "O!O!OOOOO:following_know", &PyDict_Type, &known[0], &PyTuple_Type, &known[1], &known[2],
                          &known[3], &known[4], &known[5], &known[6]))
        return NULL;
    for (int i = 0; i < COUNT; i++)
        Py_XSETREF(*slots[i], Py_NewRef(known[i]));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"detach", (PyCFunction)(void (*)(void))detach, METH_FASTCALL | METH_KEYWORDS,
     "detach(following, lwp, *, with_step)"},
    {"attach", (PyCFunction)(void (*)(void))attach, METH_FASTCALL | METH_KEYWORDS,
     "attach(following, lwp, *, with_step)"},
    {"following_know", following_know, METH_VARARGS, "Make objects of the Python code known."},
    {NULL, NULL, 0, NULL},
};

int following_exec(PyObject *module)
{
    static const Name names[] = {
        {&worn_name, "worn"},
        {&values_name, "values"},
        {&thread_id_name, "_thread_id"},
        {&send_queued_name, "_send_queued"},
        {&self_name, "__self__"},
        {&sniffio_name, "sniffio"},
        {&thread_local_name, "thread_local"},
        {&name_name, "name"},
        {NULL, NULL},
    };
    if (intern(names) < 0 || (with_step = Py_BuildValue("(s)", "with_step")) == NULL)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
